-- The ledger's tables, its fence, the journal and the settlement.
--
-- Why: first schema. Locks: none, nothing exists yet. Safe while old code runs: there is none.
--
-- Money is counted in minor units. An amount and a customer's balance fit int64; a sum over many
-- rows or accounts may not, so sums and settled balances are numeric without decimals.

-- Who decides for a shard, and in which life of Redis. One row a shard; the only arbiter.
CREATE TABLE ledger_shards (
    shard                smallint    PRIMARY KEY,
    mode                 text        NOT NULL CONSTRAINT ledger_shards_mode CHECK (mode IN ('redis', 'postgres')),
    epoch                bigint      NOT NULL,
    redis_run_id         text,
    redis_replication_id text,
    redis_token          text,
    postgres_identity    text,
    shard_count          smallint    NOT NULL,
    protocol_version     integer     NOT NULL,
    changed_at           timestamptz NOT NULL
);

INSERT INTO ledger_shards (shard, mode, epoch, shard_count, protocol_version, changed_at)
VALUES (0, 'redis', 0, 1, 1, now());

-- Every epoch that ever ruled, for people; nothing decides by it.
CREATE TABLE ledger_epochs (
    shard                smallint    NOT NULL,
    epoch                bigint      NOT NULL,
    mode                 text        NOT NULL,
    redis_run_id         text,
    redis_replication_id text,
    postgres_identity    text        NOT NULL,
    reason               text        NOT NULL,
    opened_at            timestamptz NOT NULL,
    PRIMARY KEY (shard, epoch)
);

-- Processes take a number here when they start; attempt ids are built on it.
CREATE SEQUENCE process_numbers MAXVALUE 8388607 NO CYCLE;

CREATE TABLE accounts (
    account_no         bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id         varchar(50)   COLLATE "C" NOT NULL CONSTRAINT accounts_account_id UNIQUE,
    kind               text          NOT NULL CONSTRAINT accounts_kind CHECK (kind IN ('customer', 'external')),
    currency           char(3)       NOT NULL,
    exponent           smallint      NOT NULL CONSTRAINT accounts_exponent CHECK (exponent BETWEEN 0 AND 4),
    credit_limit_minor bigint        NOT NULL DEFAULT 0
                                     CONSTRAINT accounts_credit_limit CHECK (credit_limit_minor BETWEEN 0 AND 999999999999999999),
    metadata           jsonb         NOT NULL DEFAULT '{}',
    config_version     bigint        NOT NULL DEFAULT 1,
    settled_minor      numeric(38,0) NOT NULL DEFAULT 0,
    version            bigint        NOT NULL DEFAULT 0,
    last_settlement_at timestamptz,
    created_at         timestamptz   NOT NULL,
    updated_at         timestamptz   NOT NULL,
    CONSTRAINT accounts_overdrawn CHECK (kind = 'external' OR settled_minor >= -credit_limit_minor)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX accounts_external ON accounts (currency) WHERE kind = 'external';

CREATE SEQUENCE journal_batch_seq MAXVALUE 4611686018427387903 NO CYCLE;

CREATE TABLE settlements (
    settlement_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_count   integer     NOT NULL,
    entry_count   bigint      NOT NULL,
    account_count integer     NOT NULL,
    totals        jsonb       NOT NULL,
    duration_us   bigint      NOT NULL,
    settled_at    timestamptz NOT NULL
);

CREATE INDEX settlements_settled_at ON settlements (settled_at);

-- One attempt of one micro-batch. Its status is the status of all its entries; a VOID row is a
-- tombstone: an attempt that may no longer be journaled.
CREATE TABLE journal_batches (
    batch_seq     bigint      PRIMARY KEY,
    shard         smallint    NOT NULL,
    epoch         bigint      NOT NULL,
    mode          text        NOT NULL,
    attempt_id    bigint      NOT NULL CONSTRAINT journal_batches_attempt UNIQUE,
    status        text        NOT NULL CONSTRAINT journal_batches_status CHECK (status IN ('PENDING', 'SETTLED', 'VOID')),
    entry_count   integer     NOT NULL,
    created_at    timestamptz NOT NULL,
    settled_at    timestamptz,
    settlement_id bigint      REFERENCES settlements
);

CREATE INDEX journal_batches_pending ON journal_batches (batch_seq) INCLUDE (created_at)
    WHERE status = 'PENDING';
CREATE INDEX journal_batches_settlement ON journal_batches (settlement_id)
    WHERE settlement_id IS NOT NULL;

-- The movements themselves, append-only, partitioned by month so that old months can be detached.
-- change_minor is signed: above zero a credit, below zero a debit. transaction_id is the client's
-- choice; without one the id is derived from the position (assigned_transaction_id_v1).
CREATE TABLE journal_entries (
    account_no     bigint      NOT NULL,
    batch_seq      bigint      NOT NULL,
    created_at     timestamptz NOT NULL,
    change_minor   bigint      NOT NULL
        CONSTRAINT journal_entries_amount CHECK (change_minor <> 0 AND change_minor BETWEEN -999999999999999999 AND 999999999999999999),
    item_no        smallint    NOT NULL CONSTRAINT journal_entries_item CHECK (item_no BETWEEN 0 AND 4095),
    transaction_id uuid,
    reference      text,
    metadata       jsonb,
    PRIMARY KEY (account_no, batch_seq, item_no, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX journal_entries_batch ON journal_entries (batch_seq);
CREATE TABLE journal_entries_default PARTITION OF journal_entries DEFAULT;

-- One use of one key or client-chosen id, for ever and independent of the partitions above.
CREATE TABLE idempotency_keys (
    scope      integer NOT NULL,
    name       text    COLLATE "C" NOT NULL,
    account_no bigint  NOT NULL,
    batch_seq  bigint  NOT NULL,
    item_no    smallint NOT NULL,
    PRIMARY KEY (scope, name)
);

-- What one settlement did to one account: a gapless chain by version, with the running balance.
CREATE TABLE settlement_lines (
    account_no          bigint        NOT NULL,
    version_after       bigint        NOT NULL,
    settlement_id       bigint        NOT NULL REFERENCES settlements,
    entry_count         bigint        NOT NULL,
    debit_minor         numeric(38,0) NOT NULL,
    credit_minor        numeric(38,0) NOT NULL,
    settled_after_minor numeric(38,0) NOT NULL,
    PRIMARY KEY (account_no, version_after)
);

CREATE INDEX settlement_lines_settlement ON settlement_lines (settlement_id);

-- Refuses changes to history. A row may be undone only by the SQL transaction that wrote it.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' AND TG_OP = 'DELETE' AND OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% on % refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_entries FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON settlement_lines FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON settlements FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE ON journal_batches FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON journal_entries EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON idempotency_keys EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON journal_batches EXECUTE FUNCTION refuse_change();

-- A batch settles once and is otherwise fixed, except by the SQL transaction that inserts it.
CREATE FUNCTION refuse_batch_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN NEW;
    END IF;
    IF OLD.status = 'PENDING' AND NEW.status = 'SETTLED' AND NEW.settlement_id IS NOT NULL
       AND (NEW.batch_seq, NEW.shard, NEW.epoch, NEW.mode, NEW.attempt_id, NEW.entry_count, NEW.created_at)
         = (OLD.batch_seq, OLD.shard, OLD.epoch, OLD.mode, OLD.attempt_id, OLD.entry_count, OLD.created_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'change of batch % refused: a batch only settles, and once', OLD.batch_seq
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER settles_once BEFORE UPDATE ON journal_batches FOR EACH ROW EXECUTE FUNCTION refuse_batch_change();

-- Months that begin within p_months_ahead get their partition, the current one included.
-- Returns how many were created. Bounded by its caller's lock_timeout.
CREATE FUNCTION ensure_journal_partitions_v1(p_months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_month   timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    v_created integer := 0;
    v_name    text;
BEGIN
    FOR i IN 0 .. p_months_ahead LOOP
        v_name := to_char(v_month + make_interval(months => i), '"journal_entries_y"YYYY"m"MM');
        IF to_regclass(v_name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF journal_entries FOR VALUES FROM (%L) TO (%L)', v_name,
                           (v_month + make_interval(months => i)) AT TIME ZONE 'UTC',
                           (v_month + make_interval(months => i + 1)) AT TIME ZONE 'UTC');
            v_created := v_created + 1;
        END IF;
    END LOOP;
    RETURN v_created;
END $$;

SELECT ensure_journal_partitions_v1(3);

-- Which PostgreSQL this is: another cluster, or the same one after a promotion or a restore to a
-- point in time, reads differently.
CREATE FUNCTION postgres_identity_v1() RETURNS text LANGUAGE sql VOLATILE
RETURN (SELECT system_identifier FROM pg_control_system())::text || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);

-- The advisory lock class of the fence; the second key is the shard.
CREATE FUNCTION fence_class_v1() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 7301;

-- Take the shared fence of a shard, so that no switch passes until this SQL transaction ends.
-- The caller reads the epoch in a LATER statement: one statement would see the old snapshot.
CREATE FUNCTION enter_fence_v1(p_shard smallint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the fence needs READ COMMITTED, not %', current_setting('transaction_isolation');
    END IF;
    PERFORM pg_advisory_xact_lock_shared(fence_class_v1(), p_shard::integer);
END $$;

-- Open the next epoch if p_expected_epoch still rules; returns it, or NULL when another was first.
-- Waits for journal SQL transactions in flight, at most lock_timeout.
CREATE FUNCTION open_epoch_v1(
    p_shard smallint, p_expected_epoch bigint, p_mode text, p_redis_run_id text,
    p_redis_replication_id text, p_redis_token text, p_protocol_version integer, p_reason text
) RETURNS bigint LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
    v_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(fence_class_v1(), p_shard::integer);
    UPDATE ledger_shards
       SET epoch = epoch + 1, mode = p_mode, redis_run_id = p_redis_run_id,
           redis_replication_id = p_redis_replication_id, redis_token = p_redis_token,
           postgres_identity = postgres_identity_v1(),
           protocol_version = p_protocol_version, changed_at = clock_timestamp()
     WHERE shard = p_shard AND epoch = p_expected_epoch
    RETURNING epoch INTO v_epoch;
    IF v_epoch IS NOT NULL THEN
        INSERT INTO ledger_epochs
        SELECT shard, epoch, mode, redis_run_id, redis_replication_id, postgres_identity, p_reason, changed_at
          FROM ledger_shards WHERE shard = p_shard;
    END IF;
    RETURN v_epoch;
END $$;

-- Journal one micro-batch that Redis admitted under p_epoch: all of its items that are not
-- duplicates, or nothing.
--
-- Item i (from 0) stands at array position i + 1. Key arrays name (item, scope, name) triples.
-- outcome   journaled  the items are durable once this commits, except duplicate_items
--           fenced     another epoch rules; this attempt wrote nothing and never will
--           void       the attempt has a tombstone; nothing was written
-- Run again with the same attempt it returns what the first run did, whoever rules by then.
CREATE FUNCTION journal_batch_v1(
    p_shard smallint, p_epoch bigint, p_attempt_id bigint,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_rules boolean;
    v_count integer;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    SELECT s.epoch = p_epoch AND s.mode = 'redis' AND s.postgres_identity = postgres_identity_v1()
      INTO v_rules FROM ledger_shards s WHERE s.shard = p_shard;
    IF v_rules IS NOT TRUE THEN
        -- An earlier sending of this attempt may have committed before the switch, which waited for
        -- it; no copy can any more.
        SELECT * INTO outcome, accepted_seq, accepted_at, duplicate_items
          FROM journaled_attempt_v1(p_attempt_id, cardinality(p_account_nos));
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, created_at)
    VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'redis', p_attempt_id, 'PENDING',
            cardinality(p_account_nos), clock_timestamp())
    ON CONFLICT (attempt_id) DO NOTHING
    RETURNING batch_seq, created_at INTO accepted_seq, accepted_at;
    IF accepted_seq IS NULL THEN
        SELECT * INTO outcome, accepted_seq, accepted_at, duplicate_items
          FROM journaled_attempt_v1(p_attempt_id, cardinality(p_account_nos));
        RETURN;
    END IF;

    duplicate_items := '{}';
    IF cardinality(p_key_items) > 0 THEN
        INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
        SELECT k.scope, k.name, p_account_nos[k.item + 1], accepted_seq, k.item
          FROM unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
         ORDER BY k.scope, k.name COLLATE "C"
        ON CONFLICT (scope, name) DO NOTHING;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count < cardinality(p_key_items) THEN
            duplicate_items := drop_duplicates_v1(accepted_seq, p_key_items, p_key_scopes, p_key_names);
        END IF;
    END IF;

    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, position)
     WHERE i.position - 1 <> ALL (duplicate_items);
    outcome := 'journaled';
END $$;

-- What an attempt that was journaled or voided before did, in journal_batch_v1's columns.
CREATE FUNCTION journaled_attempt_v1(
    p_attempt_id bigint, p_item_count integer,
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE sql STABLE AS $$
    SELECT CASE b.status WHEN 'VOID' THEN 'void' ELSE 'journaled' END, b.batch_seq, b.created_at,
           ARRAY(SELECT item FROM generate_series(0, p_item_count - 1) AS item
                  WHERE NOT EXISTS (SELECT FROM journal_entries e
                                     WHERE e.batch_seq = b.batch_seq AND e.created_at = b.created_at
                                       AND e.item_no = item))
      FROM journal_batches b WHERE b.attempt_id = p_attempt_id;
$$;

-- Find the items that did not get all their keys, undo the keys they did get, and count them off
-- the batch. Part of journal_batch_v1's SQL transaction, in statements of its own.
CREATE FUNCTION drop_duplicates_v1(
    p_batch_seq bigint, p_key_items integer[], p_key_scopes integer[], p_key_names text[]
) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_items integer[];
BEGIN
    SELECT array_agg(DISTINCT k.item) INTO v_items
      FROM unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
     WHERE NOT EXISTS (SELECT FROM idempotency_keys i
                        WHERE i.scope = k.scope AND i.name = k.name
                          AND i.batch_seq = p_batch_seq AND i.item_no = k.item);
    DELETE FROM idempotency_keys i
     USING unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
     WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = p_batch_seq AND k.item = ANY (v_items);
    UPDATE journal_batches SET entry_count = entry_count - cardinality(v_items) WHERE batch_seq = p_batch_seq;
    RETURN v_items;
END $$;

-- Open an account, with an opening balance as a journaled credit from the external account.
-- Returns its number, or NULL when the id is taken. The fence keeps the epoch still meanwhile; no
-- reservation is needed, for nobody can have loaded an account that is not committed yet.
CREATE FUNCTION open_account_v1(
    p_shard smallint, p_attempt_id bigint, p_account_id text, p_external_id text, p_currency text,
    p_exponent smallint, p_credit_limit_minor bigint, p_metadata text, p_opening_minor bigint, p_opening_name text
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account_no bigint;
    v_batch_seq  bigint;
    v_now        timestamptz := clock_timestamp();
BEGIN
    PERFORM enter_fence_v1(p_shard);
    INSERT INTO accounts (account_id, kind, currency, exponent, created_at, updated_at)
    SELECT p_external_id, 'external', p_currency, p_exponent, v_now, v_now
     WHERE NOT EXISTS (SELECT FROM accounts WHERE account_id = p_external_id)
    ON CONFLICT DO NOTHING;
    INSERT INTO accounts (account_id, kind, currency, exponent, credit_limit_minor, metadata, created_at, updated_at)
    SELECT p_account_id, 'customer', p_currency, p_exponent, p_credit_limit_minor, p_metadata::jsonb, v_now, v_now
     WHERE NOT EXISTS (SELECT FROM accounts WHERE account_id = p_account_id)
    ON CONFLICT (account_id) DO NOTHING
    RETURNING account_no INTO v_account_no;
    IF v_account_no IS NULL OR p_opening_minor = 0 THEN
        RETURN v_account_no;
    END IF;
    INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, created_at)
    SELECT nextval('journal_batch_seq'), p_shard, s.epoch, s.mode, p_attempt_id, 'PENDING', 1, v_now
      FROM ledger_shards s WHERE s.shard = p_shard
    RETURNING batch_seq INTO v_batch_seq;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    VALUES (0, p_opening_name, v_account_no, v_batch_seq, 0);
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no, reference)
    VALUES (v_account_no, v_batch_seq, v_now, p_opening_minor, 0, 'opening balance');
    RETURN v_account_no;
END $$;

-- Fold at most p_batches_max pending batches into the settled balances: all of them or none.
-- Batches are chosen by status, never by the highest number seen: they commit out of order.
-- outcome   settled   settlement_id and the counts say what was done
--           empty     nothing is pending
--           busy      another settler is at work
CREATE FUNCTION settle_chunk_v1(
    p_batches_max integer,
    OUT outcome text, OUT settlement bigint, OUT batches integer, OUT entries bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_started timestamptz := clock_timestamp();
    v_chosen  bigint[];
    v_first   timestamptz;
    v_last    timestamptz;
    v_accounts integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(fence_class_v1() + 1, 0) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    SELECT array_agg(b.batch_seq), min(b.created_at), max(b.created_at), count(*)
      INTO v_chosen, v_first, v_last, batches
      FROM (SELECT batch_seq, created_at FROM journal_batches
             WHERE status = 'PENDING' ORDER BY batch_seq LIMIT p_batches_max) AS b;
    IF batches = 0 THEN
        outcome := 'empty';
        RETURN;
    END IF;

    CREATE TEMP TABLE IF NOT EXISTS settling (
        account_no bigint PRIMARY KEY, entry_count bigint NOT NULL,
        debit_minor numeric NOT NULL, credit_minor numeric NOT NULL
    ) ON COMMIT DELETE ROWS;
    INSERT INTO settling
    SELECT e.account_no, count(*), coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0)
      FROM journal_entries e
     WHERE e.batch_seq = ANY (v_chosen) AND e.created_at BETWEEN v_first AND v_last
     GROUP BY e.account_no;
    SELECT coalesce(sum(entry_count), 0), count(*) INTO entries, v_accounts FROM settling;

    INSERT INTO settlements (batch_count, entry_count, account_count, totals, duration_us, settled_at)
    SELECT batches, entries, v_accounts,
           coalesce((SELECT jsonb_object_agg(t.currency, jsonb_build_object('debit_minor', t.debit, 'credit_minor', t.credit))
                       FROM (SELECT a.currency, sum(s.debit_minor) AS debit, sum(s.credit_minor) AS credit
                               FROM settling s JOIN accounts a USING (account_no) GROUP BY a.currency) AS t), '{}'),
           extract(microseconds FROM clock_timestamp() - v_started), clock_timestamp()
    RETURNING settlement_id INTO settlement;

    INSERT INTO settling
    SELECT x.account_no, sum(s.entry_count), sum(s.credit_minor), sum(s.debit_minor)
      FROM settling s JOIN accounts a USING (account_no)
      JOIN accounts x ON x.currency = a.currency AND x.kind = 'external'
     GROUP BY x.account_no;
    PERFORM FROM accounts a JOIN settling s USING (account_no) ORDER BY a.account_no FOR NO KEY UPDATE OF a;
    UPDATE accounts a
       SET settled_minor = a.settled_minor + s.credit_minor - s.debit_minor, version = a.version + s.entry_count,
           last_settlement_at = clock_timestamp(), updated_at = clock_timestamp()
      FROM settling s WHERE a.account_no = s.account_no;
    INSERT INTO settlement_lines (account_no, version_after, settlement_id, entry_count,
                                  debit_minor, credit_minor, settled_after_minor)
    SELECT a.account_no, a.version, settlement, s.entry_count, s.debit_minor, s.credit_minor, a.settled_minor
      FROM settling s JOIN accounts a USING (account_no);
    UPDATE journal_batches SET status = 'SETTLED', settled_at = clock_timestamp(), settlement_id = settlement
     WHERE batch_seq = ANY (v_chosen);
    outcome := 'settled';
END $$;

-- Public names. What an account has pending is read from the journal, so it is always exact.

CREATE FUNCTION major_units_v1(p_minor numeric, p_exponent smallint) RETURNS numeric LANGUAGE sql IMMUTABLE
RETURN p_minor * ('1e-' || p_exponent)::numeric;

-- The id of an entry whose client chose none; the same bits as app/kit/ids.py.
CREATE FUNCTION assigned_transaction_id_v1(p_accepted_at timestamptz, p_batch_seq bigint, p_item_no smallint)
RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN (lpad(to_hex((trunc(extract(epoch FROM p_accepted_at) * 1000)::bigint << 16) | (8 << 12) | p_item_no), 16, '0')
    || lpad(to_hex(p_batch_seq | (-9223372036854775808)), 16, '0'))::uuid;

-- One account's pending sums from the snapshot of the calling statement.
CREATE FUNCTION pending_sums_v1(p_account_no bigint)
RETURNS TABLE (debit_minor numeric, credit_minor numeric, entry_count bigint, last_at timestamptz)
LANGUAGE sql STABLE AS $$
    WITH bounds AS MATERIALIZED (
        SELECT min(batch_seq) AS first_seq, min(created_at) AS first_at
          FROM journal_batches WHERE status = 'PENDING'
    )
    SELECT coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0), count(*), max(e.created_at)
      FROM journal_entries e JOIN journal_batches b ON b.batch_seq = e.batch_seq AND b.status = 'PENDING'
     WHERE e.account_no = p_account_no
       AND e.batch_seq >= (SELECT first_seq FROM bounds) AND e.created_at >= (SELECT first_at FROM bounds)
$$;

-- Pending sums of every account that has any, the external accounts' contra sides included.
CREATE VIEW pending_sums AS
WITH customers AS (
    SELECT e.account_no, sum(-e.change_minor) FILTER (WHERE e.change_minor < 0) AS debit_minor,
           sum(e.change_minor) FILTER (WHERE e.change_minor > 0) AS credit_minor, max(e.created_at) AS last_at
      FROM journal_batches b JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
     WHERE b.status = 'PENDING' GROUP BY e.account_no
)
SELECT account_no, coalesce(debit_minor, 0) AS debit_minor, coalesce(credit_minor, 0) AS credit_minor, last_at
  FROM customers
UNION ALL
SELECT x.account_no, coalesce(sum(c.credit_minor), 0), coalesce(sum(c.debit_minor), 0), max(c.last_at)
  FROM customers c JOIN accounts a USING (account_no)
  JOIN accounts x ON x.currency = a.currency AND x.kind = 'external'
 GROUP BY x.account_no;

CREATE VIEW account_balances AS
SELECT a.account_id AS id, a.currency, a.created_at,
       greatest(a.updated_at, p.last_at) AS updated_at,
       major_units_v1(a.settled_minor, a.exponent) AS settled_balance,
       major_units_v1(coalesce(p.debit_minor, 0), a.exponent) AS pending_debit,
       major_units_v1(coalesce(p.credit_minor, 0), a.exponent) AS pending_credit,
       major_units_v1(a.settled_minor + coalesce(p.credit_minor, 0) - coalesce(p.debit_minor, 0)
                      + a.credit_limit_minor, a.exponent) AS available_balance,
       a.version, a.last_settlement_at
  FROM accounts a LEFT JOIN pending_sums p USING (account_no);

CREATE VIEW sub_balances AS
SELECT coalesce(e.transaction_id, assigned_transaction_id_v1(e.created_at, e.batch_seq, e.item_no)) AS id,
       a.account_id, major_units_v1(abs(e.change_minor), a.exponent) AS amount,
       CASE WHEN e.change_minor > 0 THEN 'credit' ELSE 'debit' END AS type,
       b.status, e.created_at, coalesce(b.settled_at, e.created_at) AS updated_at,
       e.reference, e.metadata, e.batch_seq, e.item_no, b.settlement_id
  FROM journal_entries e
  JOIN journal_batches b ON b.batch_seq = e.batch_seq
  JOIN accounts a ON a.account_no = e.account_no;
