-- Requests of many transactions, and a cheaper journal and settlement.
--
-- Why: POST /transactions needs all or nothing and one key for a whole part; each row cost more than it
-- had to. Locks: ACCESS EXCLUSIVE on journal_batches, settlement_lines and journal_entries, the last
-- while its rows are read for the new CHECK and its indexes are built: stop the service first where
-- there are many millions. Safe while old code runs: it refuses until it is replaced, for the scripts
-- of another protocol version may not share an epoch.

-- A part's batch remembers what was asked (a digest) and what was refused, so that its repetition gets
-- the same answers. Refusals are [position, code, available or null] triples, positions from 0.
ALTER TABLE journal_batches
    ADD COLUMN request_digest bytea,
    ADD COLUMN refusals jsonb;

-- An atomic request is one batch, so a batch has room for more than a thousand items. The three bits
-- above the twelve stand where a transaction id had leading zeros of the batch's number.
ALTER TABLE journal_entries
    DROP CONSTRAINT journal_entries_item,
    ADD CONSTRAINT journal_entries_item CHECK (item_no BETWEEN 0 AND 32767);
ALTER SEQUENCE journal_batch_seq MAXVALUE 576460752303423487;

-- The primary key by position grows at its right edge, where a page is written many times before it is
-- full; an account's entries still have their index, with two columns instead of four.
ALTER TABLE journal_entries DROP CONSTRAINT journal_entries_pkey;
DROP INDEX journal_entries_batch;
ALTER TABLE journal_entries ADD PRIMARY KEY (batch_seq, item_no, created_at);
CREATE INDEX journal_entries_account ON journal_entries (account_no, batch_seq);

-- A settlement is written after its lines, by the same function; a check of each of them costs as much
-- as the line itself. Verification compares them.
ALTER TABLE settlement_lines DROP CONSTRAINT settlement_lines_settlement_id_fkey;
ALTER TABLE journal_batches DROP CONSTRAINT journal_batches_settlement_id_fkey;

CREATE OR REPLACE FUNCTION assigned_transaction_id_v1(p_accepted_at timestamptz, p_batch_seq bigint, p_item_no smallint)
RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN (lpad(to_hex((trunc(extract(epoch FROM p_accepted_at) * 1000)::bigint << 16) | (8 << 12) | (p_item_no & 4095)), 16, '0')
    || lpad(to_hex(p_batch_seq | ((p_item_no::bigint >> 12) << 59) | (-9223372036854775808)), 16, '0'))::uuid;

CREATE OR REPLACE FUNCTION refuse_batch_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN NEW;
    END IF;
    IF OLD.status = 'PENDING' AND NEW.status = 'SETTLED' AND NEW.settlement_id IS NOT NULL
       AND (NEW.batch_seq, NEW.shard, NEW.epoch, NEW.mode, NEW.attempt_id, NEW.entry_count, NEW.created_at)
         = (OLD.batch_seq, OLD.shard, OLD.epoch, OLD.mode, OLD.attempt_id, OLD.entry_count, OLD.created_at)
       AND (NEW.changes_minor, NEW.request_digest, NEW.refusals)
           IS NOT DISTINCT FROM (OLD.changes_minor, OLD.request_digest, OLD.refusals) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'change of batch % refused: a batch only settles, and once', OLD.batch_seq
        USING ERRCODE = 'restrict_violation';
END $$;

-- Claim a part of the request that has one key for all its parts; a NULL name claims nothing. Returns
-- whether it was free: the key is nobody's, or of this very request by its digest, and the part is not
-- journaled. Both rows point at the batch, and at no item of it.
CREATE FUNCTION claim_request_v1(
    p_batch_seq bigint, p_scope integer, p_key_name text, p_name text, p_digest bytea
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_name IS NULL THEN
        RETURN true;
    END IF;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    VALUES (p_scope, p_key_name, 0, p_batch_seq, -1)
    ON CONFLICT (scope, name) DO NOTHING;
    -- A later statement, so that it sees whom the claim waited for.
    IF NOT EXISTS (SELECT FROM idempotency_keys k JOIN journal_batches b USING (batch_seq)
                    WHERE k.scope = p_scope AND k.name = p_key_name AND k.item_no = -1 AND b.request_digest = p_digest) THEN
        RETURN false;
    END IF;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    VALUES (p_scope, p_name, 0, p_batch_seq, -1)
    ON CONFLICT (scope, name) DO NOTHING;
    RETURN FOUND;
END $$;

-- Claim the keys of a batch as claim_keys_v1 does, at two thirds of its cost while none was used before.
--
-- The plain INSERT fails as a whole on the first key that was; what it did is rolled back, and the keys
-- are claimed one by one. It waits for the same keys in the same order.
CREATE FUNCTION claim_keys_v2(
    p_batch_seq bigint, p_account_nos bigint[], p_key_items integer[], p_key_scopes integer[], p_key_names text[]
) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF cardinality(p_key_items) = 0 THEN
        RETURN '{}';
    END IF;
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    SELECT k.scope, k.name, p_account_nos[k.item + 1], p_batch_seq, k.item
      FROM unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
     ORDER BY k.scope, k.name COLLATE "C";
    RETURN '{}';
EXCEPTION WHEN unique_violation THEN
    RETURN claim_keys_v1(p_batch_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
END $$;

-- Undo what the running SQL transaction has written of a batch before its entries: keys and the batch,
-- of which a tombstone stays where p_leaves_tombstone says so.
CREATE FUNCTION undo_batch_v1(
    p_batch_seq bigint, p_request_scope integer, p_request_key text, p_request_name text,
    p_key_scopes integer[], p_key_names text[], p_leaves_tombstone boolean
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM idempotency_keys i
     USING unnest(p_key_scopes || p_request_scope || p_request_scope, p_key_names || p_request_key || p_request_name) AS k (scope, name)
     WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = p_batch_seq;
    IF p_leaves_tombstone THEN
        UPDATE journal_batches SET status = 'VOID', entry_count = 0 WHERE batch_seq = p_batch_seq;
    ELSE
        DELETE FROM journal_batches WHERE batch_seq = p_batch_seq;
    END IF;
END $$;

-- Journal what Redis admitted under p_epoch, a micro-batch or a part of a request: as journal_batch_v2,
-- which older processes call, and
-- p_extent  each       a duplicate item is left out
--           all        a duplicate item stops every one
-- p_request_*          the request's one key and the part's name under it or NULL, and what the part's
--                      repetition is answered from
-- outcome   duplicate  nothing was written and never will be by this attempt: the part was journaled or
--                      its key used before or, with extent all, a key of the duplicate_items was
CREATE FUNCTION journal_batch_v3(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_extent text,
    p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'redis') THEN
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor,
                                     request_digest, refusals, created_at)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'redis', p_attempt_id, 'PENDING',
                cardinality(p_account_nos), p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp())
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

    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_request_digest) THEN
        outcome := 'duplicate';
    ELSE
        duplicate_items := claim_keys_v2(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
        outcome := CASE WHEN p_extent = 'all' AND duplicate_items <> '{}' THEN 'duplicate' ELSE 'journaled' END;
    END IF;
    IF outcome = 'duplicate' THEN
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);
        RETURN;
    END IF;
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
END $$;

-- Decide and journal in mode postgres, under the locks of the account rows: as decide_batch_v1, which
-- older processes call, and
-- p_extent, p_request_*  as in journal_batch_v3
-- p_positions   the items' positions in the request's part, for the refusals it remembers beside
--               p_refusals; NULL without a request's key
-- outcome   duplicate  the part was journaled or its key used before; nothing was written and never will be
--           refused    with extent all some item was not admitted, as words say; nothing was written
CREATE FUNCTION decide_batch_v2(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_is_repeated boolean, p_balance_max bigint,
    p_extent text, p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text, p_positions integer[],
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count      integer := cardinality(p_account_nos);
    v_duplicates integer[];
    v_left_out   integer[];
    v_is_all_out boolean;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'postgres') THEN
        -- The place in the journal is drawn under the locks: whatever this decision sees of its
        -- accounts then stands before it in the journal.
        PERFORM FROM accounts a WHERE a.account_no = ANY (p_account_nos) ORDER BY a.account_no FOR NO KEY UPDATE;
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor,
                                     request_digest, refusals, created_at)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'postgres', p_attempt_id, 'PENDING',
                v_count, p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp())
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

    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_request_digest) THEN
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);
        outcome := 'duplicate';
        RETURN;
    END IF;
    v_duplicates := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
    -- A later statement, so that its snapshot has everything the locks were waited for.
    SELECT d.words, d.availables INTO words, availables
      FROM decide_items_v1(p_balance_max, p_account_nos, p_changes_minor, v_duplicates) AS d;
    SELECT coalesce(array_agg(position - 1), '{}') INTO v_left_out
      FROM unnest(words) WITH ORDINALITY AS w (word, position) WHERE word <> 'admitted';

    -- Everything is decided; nothing may fail from here.
    v_is_all_out := cardinality(v_left_out) = v_count;
    outcome := CASE WHEN p_extent = 'all' AND v_left_out <> '{}' THEN 'refused' ELSE 'journaled' END;
    IF outcome = 'refused' OR v_is_all_out THEN
        -- A tombstone, so that no late copy of an unanswered sending admits what was refused.
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, p_is_repeated);
        RETURN;
    END IF;
    IF v_left_out <> '{}' THEN
        DELETE FROM idempotency_keys i
         USING unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
         WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = accepted_seq AND k.item = ANY (v_left_out);
        UPDATE journal_batches
           SET entry_count = v_count - cardinality(v_left_out), changes_minor = kept_changes_v1(p_changes_minor, v_left_out),
               refusals = p_refusals::jsonb || (
                   SELECT jsonb_agg(jsonb_build_array(p_positions[item + 1], words[item + 1], availables[item + 1]::text) ORDER BY item)
                     FROM unnest(v_left_out) AS item)
         WHERE batch_seq = accepted_seq;
    END IF;
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, position)
     WHERE words[i.position] = 'admitted';
END $$;

-- Pending sums of accounts that have any, from the snapshot of the calling statement. What bounds the
-- search is found once for all of them.
CREATE FUNCTION pending_sums_of_v1(p_account_nos bigint[])
RETURNS TABLE (account_no bigint, debit_minor numeric, credit_minor numeric) LANGUAGE sql STABLE AS $$
    WITH bounds AS MATERIALIZED (
        SELECT min(batch_seq) AS first_seq, min(created_at) AS first_at FROM journal_batches WHERE status = 'PENDING'
    )
    SELECT e.account_no, coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0)
      FROM journal_entries e JOIN journal_batches b ON b.batch_seq = e.batch_seq AND b.status = 'PENDING'
     WHERE e.account_no = ANY (p_account_nos)
       AND e.batch_seq >= (SELECT first_seq FROM bounds) AND e.created_at >= (SELECT first_at FROM bounds)
     GROUP BY e.account_no
$$;

-- Fold pending batches into the settled balances, at most p_batches_max and about p_entries_max
-- entries: all of them or none. As settle_chunk_v1, which older processes call, without a table of its
-- own between the entries and the balances.
CREATE FUNCTION settle_chunk_v2(
    p_batches_max integer, p_entries_max bigint,
    OUT outcome text, OUT settlement bigint, OUT batches integer, OUT entries bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_started  timestamptz := clock_timestamp();
    v_chosen   bigint[];
    v_first    timestamptz;
    v_last     timestamptz;
    v_totals   jsonb;
    v_accounts integer;
    v_is_shared boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock(fence_class_v1() + 1, 0) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    -- Where PostgreSQL decides, decisions wait for the rows that a chunk holds, so it holds fewer, and
    -- takes them in order.
    v_is_shared := (SELECT bool_or(mode = 'postgres') FROM ledger_shards);
    IF v_is_shared THEN
        p_entries_max := least(p_entries_max, 20000);
    END IF;
    SELECT array_agg(b.batch_seq), min(b.created_at), max(b.created_at), count(*)
      INTO v_chosen, v_first, v_last, batches
      FROM (SELECT batch_seq, created_at,
                   sum(entry_count) OVER (ORDER BY batch_seq) - entry_count AS entries_before
              FROM (SELECT batch_seq, created_at, entry_count FROM journal_batches
                     WHERE status = 'PENDING' ORDER BY batch_seq LIMIT p_batches_max) AS p) AS b
     WHERE b.entries_before < p_entries_max;
    IF batches = 0 THEN
        outcome := 'empty';
        RETURN;
    END IF;
    IF v_is_shared THEN
        PERFORM FROM accounts a
          WHERE a.kind = 'external' OR a.account_no IN (
                SELECT account_no FROM journal_entries WHERE batch_seq = ANY (v_chosen) AND created_at BETWEEN v_first AND v_last)
          ORDER BY a.account_no FOR NO KEY UPDATE;
    END IF;
    settlement := nextval(pg_get_serial_sequence('settlements', 'settlement_id'));

    WITH customers AS MATERIALIZED (
        SELECT e.account_no, count(*) AS entry_count,
               sum(CASE WHEN e.change_minor < 0 THEN -e.change_minor ELSE 0 END) AS debit_minor,
               sum(CASE WHEN e.change_minor > 0 THEN e.change_minor ELSE 0 END) AS credit_minor
          FROM journal_entries e
         WHERE e.batch_seq = ANY (v_chosen) AND e.created_at BETWEEN v_first AND v_last
         GROUP BY e.account_no
    ), currencies AS MATERIALIZED (
        SELECT a.currency, count(*) AS account_count, sum(c.entry_count) AS entry_count,
               sum(c.debit_minor) AS debit_minor, sum(c.credit_minor) AS credit_minor
          FROM customers c JOIN accounts a USING (account_no) GROUP BY a.currency
    ), sums AS (
        SELECT account_no, entry_count, debit_minor, credit_minor FROM customers
        UNION ALL
        SELECT x.account_no, c.entry_count, c.credit_minor, c.debit_minor
          FROM currencies c JOIN accounts x ON x.currency = c.currency AND x.kind = 'external'
    ), settled AS (
        UPDATE accounts a
           SET settled_minor = a.settled_minor + s.credit_minor - s.debit_minor, version = a.version + s.entry_count,
               last_settlement_at = v_started, updated_at = v_started
          FROM sums s WHERE a.account_no = s.account_no
        RETURNING a.account_no, a.version, s.entry_count, s.debit_minor, s.credit_minor, a.settled_minor
    ), lines AS (
        INSERT INTO settlement_lines (account_no, version_after, settlement_id, entry_count,
                                      debit_minor, credit_minor, settled_after_minor)
        SELECT account_no, version, settlement, entry_count, debit_minor, credit_minor, settled_minor FROM settled
    )
    SELECT coalesce(sum(entry_count), 0), coalesce(sum(account_count), 0),
           coalesce(jsonb_object_agg(currency, jsonb_build_object('debit_minor', debit_minor, 'credit_minor', credit_minor)), '{}')
      INTO entries, v_accounts, v_totals FROM currencies;

    INSERT INTO settlements (settlement_id, batch_count, entry_count, account_count, totals, duration_us, settled_at)
    OVERRIDING SYSTEM VALUE
    VALUES (settlement, batches, entries, v_accounts, v_totals,
            extract(microseconds FROM clock_timestamp() - v_started), clock_timestamp());
    UPDATE journal_batches SET status = 'SETTLED', settled_at = clock_timestamp(), settlement_id = settlement
     WHERE batch_seq = ANY (v_chosen);
    outcome := 'settled';
END $$;
