-- Decisions in PostgreSQL, controls for operators, tombstones, and the results of verification.
--
-- Why: Redis may die, and the ledger goes on. Locks: ACCESS EXCLUSIVE on ledger_shards,
-- ledger_epochs and journal_batches for an instant. Safe while old code runs: yes in mode redis; an
-- old process that meets another mode refuses until Redis decides again.

ALTER TABLE ledger_shards
    ADD COLUMN numbers_identity text,
    ADD COLUMN forced_mode text CONSTRAINT ledger_shards_forced_mode CHECK (forced_mode IN ('redis', 'postgres')),
    DROP CONSTRAINT ledger_shards_mode,
    ADD CONSTRAINT ledger_shards_mode CHECK (mode IN ('redis', 'postgres', 'closed'));

-- Which PostgreSQL this is, as a database that may come back from a backup: another cluster, a
-- promotion, a restart on restored files, and a dump read into the same cluster all read differently.
-- Redis may then know more than PostgreSQL, so a new epoch begins; after a plain restart it costs a
-- reload of the accounts in use.
CREATE OR REPLACE FUNCTION postgres_identity_v1() RETURNS text LANGUAGE sql VOLATILE
RETURN (SELECT system_identifier FROM pg_control_system())::text
    || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
    || '/' || extract(epoch FROM pg_postmaster_start_time())::text
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text
    || '/' || pg_relation_filenode('ledger_shards')::text;

-- Process numbers come from a sequence, and a restored sequence would give out numbers that living
-- processes have. So a PostgreSQL that has changed first goes far ahead; attempt ids get 27 bits of
-- process number and 36 of their own, and the numbers given so far keep their attempt ids.
ALTER SEQUENCE process_numbers MAXVALUE 134217727;
SELECT setval('process_numbers', nextval('process_numbers') * 16 + 16);

-- After a restore, go ahead with what living processes may remember: 4096 process numbers, a million
-- accounts, and at least to where the clock is (27 bits of eight seconds last until 2059), and a
-- random step further, so that two restores to the same backup do not give out the same numbers.
CREATE FUNCTION renew_numbers_v1(p_shard smallint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_seconds numeric := extract(epoch FROM clock_timestamp() - timestamptz '2025-01-01 00:00:00Z');
    v_step    double precision := random();
    v_first   boolean;
BEGIN
    IF EXISTS (SELECT FROM ledger_shards WHERE shard = p_shard AND numbers_identity = postgres_identity_v1()) THEN
        RETURN;
    END IF;
    UPDATE ledger_shards s SET numbers_identity = postgres_identity_v1()
      FROM ledger_shards before
     WHERE s.shard = p_shard AND before.shard = s.shard AND s.numbers_identity IS DISTINCT FROM postgres_identity_v1()
    RETURNING before.numbers_identity IS NULL INTO v_first;
    IF v_first IS NULL THEN
        RETURN;
    END IF;
    PERFORM setval('process_numbers',
                   greatest(nextval('process_numbers') + 4096, (v_seconds / 8)::bigint) + (v_step * 4096)::bigint);
    IF NOT v_first THEN
        PERFORM setval(pg_get_serial_sequence('accounts', 'account_no'),
                       greatest(nextval(pg_get_serial_sequence('accounts', 'account_no')) + 1000000,
                                (v_seconds * 1000)::bigint) + (v_step * 1000)::bigint);
    END IF;
END $$;

-- A number that no other process has or had.
CREATE FUNCTION process_number_v1(p_shard smallint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM renew_numbers_v1(p_shard);
    RETURN nextval('process_numbers');
END $$;

-- What each item of a batch changes, by item number, NULL for an item that was left out: a second
-- witness of its entries. NULL in batches that are older than this column.
ALTER TABLE journal_batches ADD COLUMN changes_minor bigint[];

CREATE OR REPLACE FUNCTION refuse_batch_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN NEW;
    END IF;
    IF OLD.status = 'PENDING' AND NEW.status = 'SETTLED' AND NEW.settlement_id IS NOT NULL
       AND (NEW.batch_seq, NEW.shard, NEW.epoch, NEW.mode, NEW.attempt_id, NEW.entry_count, NEW.created_at)
         = (OLD.batch_seq, OLD.shard, OLD.epoch, OLD.mode, OLD.attempt_id, OLD.entry_count, OLD.created_at)
       AND NEW.changes_minor IS NOT DISTINCT FROM OLD.changes_minor THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'change of batch % refused: a batch only settles, and once', OLD.batch_seq
        USING ERRCODE = 'restrict_violation';
END $$;

-- Everything an operator did to the ledger as a whole.
CREATE TABLE operator_actions (
    action_no     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action        text        NOT NULL CONSTRAINT operator_actions_action
                              CHECK (action IN ('force_redis', 'force_postgres', 'automatic', 'read_only', 'drain', 'resume')),
    actor         text        NOT NULL,
    reason        text        NOT NULL,
    database_role text        NOT NULL,
    epoch_before  bigint      NOT NULL,
    epoch_after   bigint      NOT NULL,
    acted_at      timestamptz NOT NULL
);

-- What each run of the consistency check compared and found.
CREATE TABLE verifications (
    verification_no bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch           bigint      NOT NULL,
    mode            text        NOT NULL,
    is_complete     boolean     NOT NULL,
    compared        jsonb       NOT NULL,
    mismatch_count  integer     NOT NULL,
    mismatches      jsonb       NOT NULL,
    duration_us     bigint      NOT NULL,
    verified_at     timestamptz NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON operator_actions FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON operator_actions EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger_epochs FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Tell every process at once that another epoch rules; those who miss it find out by polling.
CREATE FUNCTION announce_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ledger_epoch', NEW.shard || ' ' || NEW.epoch);
    RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER UPDATE ON ledger_shards FOR EACH ROW
    WHEN (OLD.epoch <> NEW.epoch) EXECUTE FUNCTION announce_epoch();

-- Take the shared fence, as before, and bound what holds it: these settings go with the SQL
-- transaction, so they hold behind a pooler as well, where a session's own may not.
CREATE OR REPLACE FUNCTION enter_fence_v1(p_shard smallint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the fence needs READ COMMITTED, not %', current_setting('transaction_isolation');
    END IF;
    PERFORM bound_transaction_v1();
    PERFORM pg_advisory_xact_lock_shared(fence_class_v1(), p_shard::integer);
END $$;

-- End this session if its SQL transaction idles for two seconds, and make its commit durable.
CREATE FUNCTION bound_transaction_v1() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM set_config('idle_in_transaction_session_timeout', '2000', true),
            set_config('synchronous_commit', 'on', true);
END $$;

-- Write down the epoch that was opened by the caller's SQL transaction.
CREATE FUNCTION record_epoch_v1(p_shard smallint, p_reason text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    INSERT INTO ledger_epochs (shard, epoch, mode, redis_run_id, redis_replication_id, postgres_identity, reason, opened_at)
    SELECT shard, epoch, mode, redis_run_id, redis_replication_id, postgres_identity, p_reason, changed_at
      FROM ledger_shards WHERE shard = p_shard
    RETURNING epoch
$$;

-- The number of the epoch that follows. A PostgreSQL that has changed may have forgotten epochs that
-- Redis still has keys of, so it leaves a gap.
CREATE FUNCTION next_epoch_v1(p_shard ledger_shards) RETURNS bigint LANGUAGE sql VOLATILE
RETURN p_shard.epoch + CASE WHEN p_shard.postgres_identity <> postgres_identity_v1() THEN 1000 ELSE 1 END;

-- Open the next epoch if p_expected_epoch still rules; returns it, or NULL when another was first,
-- the ledger is closed, or an operator forces another mode.
-- Waits for journal SQL transactions in flight, at most lock_timeout; one that idles is ended by
-- idle_in_transaction_session_timeout before that.
CREATE OR REPLACE FUNCTION open_epoch_v1(
    p_shard smallint, p_expected_epoch bigint, p_mode text, p_redis_run_id text,
    p_redis_replication_id text, p_redis_token text, p_protocol_version integer, p_reason text
) RETURNS bigint LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
    PERFORM bound_transaction_v1();
    PERFORM pg_advisory_xact_lock(fence_class_v1(), p_shard::integer);
    UPDATE ledger_shards s
       SET epoch = next_epoch_v1(s), mode = p_mode, redis_run_id = p_redis_run_id,
           redis_replication_id = p_redis_replication_id, redis_token = p_redis_token,
           postgres_identity = postgres_identity_v1(),
           protocol_version = p_protocol_version, changed_at = clock_timestamp()
     WHERE shard = p_shard AND epoch = p_expected_epoch AND mode <> 'closed'
       AND p_mode IN (mode, coalesce(forced_mode, p_mode));
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN record_epoch_v1(p_shard, p_reason);
END $$;

-- Do what an operator asks, and write it down; returns the epoch that rules afterwards.
--   force_redis     nobody may take the decision away from Redis
--   force_postgres  PostgreSQL decides until told otherwise
--   automatic       nothing is forced any more
--   read_only, drain  nothing is accepted from here on; what was committed stays
--   resume          PostgreSQL decides; the worker gives the decision back to Redis
CREATE FUNCTION control_ledger_v1(p_shard smallint, p_action text, p_actor text, p_reason text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
    v_before ledger_shards;
    v_mode   text;
BEGIN
    PERFORM bound_transaction_v1();
    PERFORM pg_advisory_xact_lock(fence_class_v1(), p_shard::integer);
    SELECT * INTO v_before FROM ledger_shards WHERE shard = p_shard;
    v_mode := CASE
        WHEN p_action IN ('read_only', 'drain') THEN 'closed'
        WHEN p_action = 'resume' AND v_before.mode = 'closed' THEN 'postgres'
        WHEN p_action = 'force_postgres' AND v_before.mode = 'redis' THEN 'postgres'
        ELSE v_before.mode END;
    UPDATE ledger_shards
       SET forced_mode = CASE p_action WHEN 'force_redis' THEN 'redis' WHEN 'force_postgres' THEN 'postgres'
                                       WHEN 'automatic' THEN NULL ELSE forced_mode END
     WHERE shard = p_shard;
    IF v_mode <> v_before.mode THEN
        UPDATE ledger_shards s
           SET epoch = next_epoch_v1(s), mode = v_mode, redis_run_id = NULL, redis_replication_id = NULL, redis_token = gen_random_uuid()::text,
               postgres_identity = postgres_identity_v1(), changed_at = clock_timestamp()
         WHERE shard = p_shard;
        PERFORM record_epoch_v1(p_shard, p_action);
    END IF;
    INSERT INTO operator_actions (action, actor, reason, database_role, epoch_before, epoch_after, acted_at)
    SELECT p_action, p_actor, p_reason, session_user, v_before.epoch, s.epoch, clock_timestamp()
      FROM ledger_shards s WHERE s.shard = p_shard;
    RETURN (SELECT epoch FROM ledger_shards WHERE shard = p_shard);
END $$;

-- Put a tombstone on an attempt unless it was journaled: from its commit on the attempt can never be
-- journaled, by no copy of any message. Returns whether the attempt is void.
CREATE FUNCTION void_attempt_v1(p_shard smallint, p_attempt_id bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, created_at)
    SELECT nextval('journal_batch_seq'), p_shard, s.epoch, s.mode, p_attempt_id, 'VOID', 0, clock_timestamp()
      FROM ledger_shards s WHERE s.shard = p_shard
    ON CONFLICT (attempt_id) DO NOTHING;
    RETURN (SELECT status = 'VOID' FROM journal_batches WHERE attempt_id = p_attempt_id);
END $$;

-- Claim the keys of a batch; returns the items whose keys were used before.
--
-- A claim made at the same time by another SQL transaction is waited for. Keys are claimed in
-- order, so two batches never wait for each other.
CREATE FUNCTION claim_keys_v1(
    p_batch_seq bigint, p_account_nos bigint[], p_key_items integer[], p_key_scopes integer[], p_key_names text[]
) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count integer;
BEGIN
    IF cardinality(p_key_items) = 0 THEN
        RETURN '{}';
    END IF;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    SELECT k.scope, k.name, p_account_nos[k.item + 1], p_batch_seq, k.item
      FROM unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
     ORDER BY k.scope, k.name COLLATE "C"
    ON CONFLICT (scope, name) DO NOTHING;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = cardinality(p_key_items) THEN
        RETURN '{}';
    END IF;
    RETURN drop_duplicates_v1(p_batch_seq, p_key_items, p_key_scopes, p_key_names);
END $$;

-- The changes of a batch with NULL for the items that were left out.
CREATE FUNCTION kept_changes_v1(p_changes_minor bigint[], p_left_out integer[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(CASE WHEN position - 1 <> ALL (p_left_out) THEN change_minor END ORDER BY position)
      FROM unnest(p_changes_minor) WITH ORDINALITY AS c (change_minor, position)
$$;

-- Whether an epoch rules: its number, its word, who decides in it, and on which PostgreSQL. The number
-- alone would come again after PostgreSQL lost history. Call it in a statement after the fence's.
CREATE FUNCTION epoch_rules_v1(p_shard smallint, p_epoch bigint, p_word text, p_mode text) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT s.epoch = p_epoch AND s.redis_token = p_word AND s.mode = p_mode AND s.postgres_identity = postgres_identity_v1()
      FROM ledger_shards s WHERE s.shard = p_shard
$$;

-- What an attempt that was journaled or voided under an epoch did, in journal_batch_v2's columns.
CREATE FUNCTION journaled_attempt_v2(
    p_epoch bigint, p_attempt_id bigint, p_item_count integer,
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE sql STABLE AS $$
    SELECT j.* FROM journaled_attempt_v1(p_attempt_id, p_item_count) AS j
      JOIN journal_batches b ON b.batch_seq = j.accepted_seq
     WHERE b.epoch = p_epoch OR b.status = 'VOID'
$$;

-- Journal one micro-batch that Redis admitted under p_epoch: all of its items that are not
-- duplicates, or nothing. As journal_batch_v1, which older processes call; it also compares the
-- epoch's word, and the batch carries its changes.
CREATE FUNCTION journal_batch_v2(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_rules boolean;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    v_rules := epoch_rules_v1(p_shard, p_epoch, p_word, 'redis');
    IF v_rules THEN
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor, created_at)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'redis', p_attempt_id, 'PENDING',
                cardinality(p_account_nos), p_changes_minor, clock_timestamp())
        ON CONFLICT (attempt_id) DO NOTHING
        RETURNING batch_seq, created_at INTO accepted_seq, accepted_at;
    END IF;
    IF accepted_seq IS NULL THEN
        -- An earlier sending of this attempt may have committed, before a switch that waited for it
        -- or under this epoch.
        SELECT * INTO outcome, accepted_seq, accepted_at, duplicate_items
          FROM journaled_attempt_v2(p_epoch, p_attempt_id, cardinality(p_account_nos));
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    duplicate_items := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
    IF duplicate_items <> '{}' THEN
        UPDATE journal_batches SET changes_minor = kept_changes_v1(p_changes_minor, duplicate_items)
         WHERE batch_seq = accepted_seq;
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

-- Decide and journal one micro-batch in mode postgres, under the locks of its account rows.
--
-- Arguments as in journal_batch_v2, and p_is_repeated: an earlier sending was not answered.
-- outcome   journaled  words say what became of each item; the admitted ones are durable
--           fenced     another epoch rules; this attempt wrote nothing and never will
--           void       the attempt has a tombstone; nothing was written
-- words     admitted, duplicate, insufficient_available, credit_in_flight, balance_limit_exceeded,
--           unknown_account (there is none in this PostgreSQL); undecided where an earlier sending of this attempt was carried out and left the item out
-- availables  what was available at the decision, for refused items
-- Run again with the same attempt it finds what the first run journaled. A repeated sending that
-- admits nothing leaves a tombstone, so that no late copy of the first one admits what was refused.
CREATE FUNCTION decide_batch_v1(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_is_repeated boolean, p_balance_max bigint,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_rules      boolean;
    v_count      integer := cardinality(p_account_nos);
    v_duplicates integer[];
    v_left_out   integer[];
BEGIN
    PERFORM enter_fence_v1(p_shard);
    v_rules := epoch_rules_v1(p_shard, p_epoch, p_word, 'postgres');
    IF v_rules THEN
        -- The place in the journal is drawn under the locks: whatever this decision sees of its
        -- accounts then stands before it in the journal.
        PERFORM FROM accounts a WHERE a.account_no = ANY (p_account_nos) ORDER BY a.account_no FOR NO KEY UPDATE;
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor, created_at)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'postgres', p_attempt_id, 'PENDING',
                v_count, p_changes_minor, clock_timestamp())
        ON CONFLICT (attempt_id) DO NOTHING
        RETURNING batch_seq, created_at INTO accepted_seq, accepted_at;
    END IF;
    IF accepted_seq IS NULL THEN
        SELECT j.outcome, j.accepted_seq, j.accepted_at, ARRAY(
                 SELECT CASE WHEN item = ANY (j.duplicate_items) THEN 'undecided' ELSE 'admitted' END
                   FROM generate_series(0, v_count - 1) AS item ORDER BY item)
          INTO outcome, accepted_seq, accepted_at, words
          FROM journaled_attempt_v2(p_epoch, p_attempt_id, v_count) AS j;
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    v_duplicates := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
    -- A later statement, so that its snapshot has everything the locks were waited for.
    SELECT d.words, d.availables INTO words, availables
      FROM decide_items_v1(p_balance_max, p_account_nos, p_changes_minor, v_duplicates) AS d;
    SELECT array_agg(position - 1) INTO v_left_out
      FROM unnest(words) WITH ORDINALITY AS w (word, position) WHERE word <> 'admitted';

    -- Everything is decided; nothing may fail from here.
    outcome := 'journaled';
    IF v_left_out IS NOT NULL THEN
        DELETE FROM idempotency_keys i
         USING unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
         WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = accepted_seq AND k.item = ANY (v_left_out);
        UPDATE journal_batches
           SET entry_count = v_count - cardinality(v_left_out), changes_minor = kept_changes_v1(p_changes_minor, v_left_out),
               status = CASE WHEN cardinality(v_left_out) = v_count THEN 'VOID' ELSE 'PENDING' END
         WHERE batch_seq = accepted_seq;
    END IF;
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, position)
     WHERE words[i.position] = 'admitted';
    IF cardinality(v_left_out) = v_count AND NOT p_is_repeated THEN
        DELETE FROM journal_batches WHERE batch_seq = accepted_seq;
    END IF;
END $$;

-- Decide items in order against what their accounts have, all from the caller's locks and this one
-- statement's snapshot. A credit of the batch funds no debit of the batch, for it is not durable yet:
-- such a debit is to be decided again (credit_in_flight).
CREATE FUNCTION decide_items_v1(
    p_balance_max bigint, p_account_nos bigint[], p_changes_minor bigint[], p_duplicates integer[],
    OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account   record;
    v_item      integer;
    v_change    bigint;
    v_available numeric;
    v_incoming  numeric;
BEGIN
    SELECT array_agg(CASE WHEN position - 1 = ANY (p_duplicates) THEN 'duplicate' ELSE 'unknown_account' END ORDER BY position)
      INTO words FROM generate_series(1, cardinality(p_account_nos)) AS position;
    availables := array_fill(NULL::numeric, ARRAY[cardinality(p_account_nos)]);
    FOR v_account IN
        SELECT a.settled_minor + p.credit_minor - p.debit_minor + a.credit_limit_minor AS available, i.items
          FROM (SELECT account_no, array_agg(position ORDER BY position) AS items
                  FROM unnest(p_account_nos) WITH ORDINALITY AS u (account_no, position)
                 WHERE position - 1 <> ALL (p_duplicates)
                 GROUP BY account_no) AS i
          JOIN accounts a USING (account_no) CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
    LOOP
        v_available := v_account.available;
        v_incoming := 0;
        FOREACH v_item IN ARRAY v_account.items LOOP
            v_change := p_changes_minor[v_item];
            IF v_change < 0 AND v_available + v_change < 0 THEN
                words[v_item] := CASE WHEN v_available + v_incoming + v_change < 0 THEN 'insufficient_available'
                                      ELSE 'credit_in_flight' END;
                availables[v_item] := v_available;
            ELSIF v_change > 0 AND v_available + v_incoming + v_change > p_balance_max THEN
                words[v_item] := 'balance_limit_exceeded';
                availables[v_item] := v_available;
            ELSE
                words[v_item] := 'admitted';
                v_available := v_available + least(v_change, 0);
                v_incoming := v_incoming + greatest(v_change, 0);
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Opening an account: as before, and refused (0) while the ledger is closed.
CREATE OR REPLACE FUNCTION open_account_v1(
    p_shard smallint, p_attempt_id bigint, p_account_id text, p_external_id text, p_currency text,
    p_exponent smallint, p_credit_limit_minor bigint, p_metadata text, p_opening_minor bigint, p_opening_name text
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account_no bigint;
    v_batch_seq  bigint;
    v_shard      ledger_shards;
    v_now        timestamptz := clock_timestamp();
BEGIN
    PERFORM enter_fence_v1(p_shard);
    SELECT * INTO v_shard FROM ledger_shards s WHERE s.shard = p_shard;
    IF v_shard.mode = 'closed' THEN
        RETURN 0;
    END IF;
    PERFORM renew_numbers_v1(p_shard);
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
    INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor, created_at)
    VALUES (nextval('journal_batch_seq'), p_shard, v_shard.epoch, v_shard.mode, p_attempt_id, 'PENDING', 1, ARRAY[p_opening_minor], v_now)
    RETURNING batch_seq INTO v_batch_seq;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    VALUES (0, p_opening_name, v_account_no, v_batch_seq, 0);
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no, reference)
    VALUES (v_account_no, v_batch_seq, v_now, p_opening_minor, 0, 'opening balance');
    RETURN v_account_no;
END $$;

-- Hold a shard's fence exclusively until the SQL transaction ends: nothing is journaled meanwhile,
-- so Redis and PostgreSQL can be read as of one instant. The caller must be short.
CREATE FUNCTION hold_fence_v1(p_shard smallint) RETURNS void LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' AS $$
BEGIN
    PERFORM bound_transaction_v1();
    PERFORM pg_advisory_xact_lock(fence_class_v1(), p_shard::integer);
END $$;
