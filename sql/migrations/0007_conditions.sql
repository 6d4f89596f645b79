-- Transactions that are conditional, backdated or reversed, and how far back history is complete.
--
-- Why: `expect`, `effective_at`, reversals. Locks: ACCESS EXCLUSIVE on journal_entries for an instant, waited
-- for at most two seconds; no row is read or rewritten. Safe while old code runs: yes; the first process of
-- protocol version 6 opens an epoch that older ones refuse.

-- When a movement counts for those who ask by effective time, where that is not when it was booked; and
-- the transaction that it reverses.
SET LOCAL lock_timeout = '2s';
ALTER TABLE journal_entries ADD COLUMN effective_at timestamptz, ADD COLUMN reverses uuid;

-- A time before which nothing can be journaled any more that is not visible yet: every batch with
-- created_at below it is seen by statements that begin after this one. Batches commit out of order, so no
-- other bound holds. Whoever journals takes its time while it has the fence, or waits for it, and after its
-- SQL transaction began; so the oldest of those who have it bounds them all, and the present bounds who comes.
CREATE FUNCTION journal_watermark_v1(p_shard smallint) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_oldest timestamptz;
    v_hidden boolean;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'a standby does not know who journals' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- What was read of others earlier in this SQL transaction would be shown again.
    PERFORM pg_stat_clear_snapshot();
    SELECT min(a.xact_start), bool_or(a.query = '<insufficient privilege>' OR a.state = 'disabled') INTO v_oldest, v_hidden
      FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.classid = fence_class_v1()::oid AND l.objid = p_shard::integer::oid
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND l.pid <> pg_backend_pid();
    IF v_hidden THEN
        RAISE EXCEPTION 'who journals is hidden from role %: grant it pg_read_all_stats, and leave track_activities on', current_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN least(v_now, v_oldest);
END $$;

-- Opening an account: as before, its time taken under the fence, as journal_watermark_v1 needs it.
CREATE OR REPLACE FUNCTION open_account_v1(
    p_shard smallint, p_attempt_id bigint, p_account_id text, p_external_id text, p_currency text,
    p_exponent smallint, p_credit_limit_minor bigint, p_metadata text, p_opening_minor bigint, p_opening_name text
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account_no bigint;
    v_batch_seq  bigint;
    v_shard      ledger_shards;
    v_now        timestamptz;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    v_now := clock_timestamp();
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

-- Decide items in order as decide_items_v2 does, which older processes call; what an item expects of its
-- account comes after what the account takes no more.
-- p_expected_versions    the version, which counts the account's entries; NULL for any
-- p_expected_availables  what is at least available; NULL for any
-- words       also version_mismatch, and then availables has the version; available_below_expected
CREATE FUNCTION decide_items_v3(
    p_balance_max bigint, p_account_nos bigint[], p_changes_minor bigint[], p_duplicates integer[],
    p_expected_versions bigint[], p_expected_availables bigint[],
    OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account   record;
    v_item      integer;
    v_change    bigint;
    v_available numeric;
    v_incoming  numeric;
    v_entries   bigint;
BEGIN
    SELECT array_agg(CASE WHEN position - 1 = ANY (p_duplicates) THEN 'duplicate' ELSE 'unknown_account' END ORDER BY position)
      INTO words FROM generate_series(1, cardinality(p_account_nos)) AS position;
    availables := array_fill(NULL::numeric, ARRAY[cardinality(p_account_nos)]);
    FOR v_account IN
        SELECT a.settled_minor + p.credit_minor - p.debit_minor + a.credit_limit_minor AS available, i.items,
               a.version + p.entry_count AS entries, account_stop_v1(a.frozen, a.closed) AS stop
          FROM (SELECT account_no, array_agg(position ORDER BY position) AS items
                  FROM unnest(p_account_nos) WITH ORDINALITY AS u (account_no, position)
                 WHERE position - 1 <> ALL (p_duplicates)
                 GROUP BY account_no) AS i
          JOIN accounts a USING (account_no) CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
    LOOP
        v_available := v_account.available;
        v_incoming := 0;
        v_entries := v_account.entries;
        FOREACH v_item IN ARRAY v_account.items LOOP
            v_change := p_changes_minor[v_item];
            IF v_account.stop = 'closed' THEN
                words[v_item] := 'account_closed';
                availables[v_item] := v_available;
            ELSIF v_account.stop IN ('all', CASE WHEN v_change < 0 THEN 'debit' ELSE 'credit' END) THEN
                words[v_item] := 'account_frozen';
                availables[v_item] := v_available;
            ELSIF p_expected_versions[v_item] <> v_entries THEN
                words[v_item] := 'version_mismatch';
                availables[v_item] := v_entries;
            ELSIF v_available < p_expected_availables[v_item] THEN
                words[v_item] := CASE WHEN v_available + v_incoming < p_expected_availables[v_item] THEN 'available_below_expected'
                                      ELSE 'credit_in_flight' END;
                availables[v_item] := v_available;
            ELSIF v_change < 0 AND v_available + v_change < 0 THEN
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
                v_entries := v_entries + 1;
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Journal what Redis admitted under p_epoch: as journal_batch_v4, which older processes call, and
-- p_effective_ats  when an item counts by effective time, if that is before it is booked; NULL where none is
-- p_reverses       the transaction that an item reverses; its key reversal:<id> keeps it from being reversed twice
CREATE FUNCTION journal_batch_v5(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_extent text,
    p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[], p_transfer_nos smallint[], p_group_nos smallint[], p_holds text,
    p_effective_ats timestamptz[], p_reverses uuid[],
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'redis') THEN
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor,
                                     request_digest, refusals, created_at, transfer_nos, group_nos)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'redis', p_attempt_id, 'PENDING',
                cardinality(p_account_nos), p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp(), p_transfer_nos, p_group_nos)
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
        IF p_holds IS NULL THEN
            duplicate_items := claim_keys_v2(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
        ELSE
            -- Keys that claim_keys_v2 inserted cannot be undone, for it does so in a SQL transaction inside this one.
            duplicate_items := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
            duplicate_items := duplicate_items || claim_holds_v1(p_holds::jsonb);
        END IF;
        outcome := CASE WHEN p_extent = 'all' AND duplicate_items <> '{}' THEN 'duplicate' ELSE 'journaled' END;
    END IF;
    IF outcome = 'duplicate' THEN
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);
        RETURN;
    END IF;
    IF duplicate_items <> '{}' THEN
        IF p_group_nos IS NOT NULL THEN
            duplicate_items := drop_groups_v1(accepted_seq, p_group_nos, duplicate_items, p_key_items, p_key_scopes, p_key_names);
        END IF;
        UPDATE journal_batches SET changes_minor = kept_changes_v1(p_changes_minor, duplicate_items)
         WHERE batch_seq = accepted_seq;
    END IF;
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata, effective_at, reverses)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb,
           CASE WHEN i.effective_at < accepted_at THEN i.effective_at END, i.reverses
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata, p_effective_ats, p_reverses)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, effective_at, reverses, position)
     WHERE i.position - 1 <> ALL (duplicate_items);
    IF p_holds IS NOT NULL THEN
        PERFORM apply_holds_v1(accepted_seq, accepted_at, p_holds::jsonb, p_account_nos, p_changes_minor, p_transaction_ids, duplicate_items);
    END IF;
END $$;

-- Decide and journal in mode postgres, under the locks of the account rows: as decide_batch_v4, which older
-- processes call, and p_effective_ats, p_reverses as in journal_batch_v5,
-- p_expected_versions, p_expected_availables  as in decide_items_v3; a group expects nothing
CREATE FUNCTION decide_batch_v5(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_is_repeated boolean, p_balance_max bigint,
    p_extent text, p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text, p_positions integer[],
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[], p_transfer_nos smallint[], p_group_nos smallint[], p_holds text,
    p_effective_ats timestamptz[], p_reverses uuid[], p_expected_versions bigint[], p_expected_availables bigint[],
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
                                     request_digest, refusals, created_at, transfer_nos, group_nos)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'postgres', p_attempt_id, 'PENDING',
                v_count, p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp(), p_transfer_nos, p_group_nos)
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
    IF p_holds IS NOT NULL THEN
        v_duplicates := v_duplicates || claim_holds_v1(p_holds::jsonb);
    END IF;
    -- A later statement, so that its snapshot has everything the locks were waited for.
    IF p_group_nos IS NULL THEN
        SELECT d.words, d.availables INTO words, availables
          FROM decide_items_v3(p_balance_max, p_account_nos, p_changes_minor, v_duplicates,
                               p_expected_versions, p_expected_availables) AS d;
    ELSE
        SELECT d.words, d.availables INTO words, availables
          FROM decide_groups_v1(p_balance_max, p_account_nos, p_changes_minor, v_duplicates, p_group_nos) AS d;
    END IF;
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
                                 transaction_id, reference, metadata, effective_at, reverses)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb,
           CASE WHEN i.effective_at < accepted_at THEN i.effective_at END, i.reverses
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata, p_effective_ats, p_reverses)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, effective_at, reverses, position)
     WHERE words[i.position] = 'admitted';
    IF p_holds IS NOT NULL THEN
        PERFORM apply_holds_v1(accepted_seq, accepted_at, p_holds::jsonb, p_account_nos, p_changes_minor, p_transaction_ids, v_left_out);
    END IF;
END $$;

-- Pending sums as pending_sums_of_v1, and how many entries they are.
CREATE FUNCTION pending_sums_of_v2(p_account_nos bigint[])
RETURNS TABLE (account_no bigint, debit_minor numeric, credit_minor numeric, entry_count bigint) LANGUAGE sql STABLE AS $$
    WITH bounds AS MATERIALIZED (
        SELECT min(batch_seq) AS first_seq, min(created_at) AS first_at FROM journal_batches WHERE status = 'PENDING'
    )
    SELECT e.account_no, coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0), count(*)
      FROM journal_entries e JOIN journal_batches b ON b.batch_seq = e.batch_seq AND b.status = 'PENDING'
     WHERE e.account_no = ANY (p_account_nos)
       AND e.batch_seq >= (SELECT first_seq FROM bounds) AND e.created_at >= (SELECT first_at FROM bounds)
     GROUP BY e.account_no
$$;

-- The public names, with the version that counts every entry an account has had, settled or not.
CREATE OR REPLACE VIEW pending_sums AS
WITH customers AS (
    SELECT e.account_no, sum(-e.change_minor) FILTER (WHERE e.change_minor < 0) AS debit_minor,
           sum(e.change_minor) FILTER (WHERE e.change_minor > 0) AS credit_minor, max(e.created_at) AS last_at,
           count(*) AS entry_count
      FROM journal_batches b JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
     WHERE b.status = 'PENDING' GROUP BY e.account_no
)
SELECT account_no, coalesce(debit_minor, 0) AS debit_minor, coalesce(credit_minor, 0) AS credit_minor, last_at, entry_count
  FROM customers
UNION ALL
SELECT x.account_no, coalesce(sum(c.credit_minor), 0), coalesce(sum(c.debit_minor), 0), max(c.last_at), sum(c.entry_count)::bigint
  FROM customers c JOIN accounts a USING (account_no)
  JOIN accounts x ON x.currency = a.currency AND x.kind = 'external'
 GROUP BY x.account_no;

CREATE OR REPLACE VIEW account_balances AS
SELECT a.account_id AS id, a.currency, a.created_at,
       greatest(a.updated_at, p.last_at) AS updated_at,
       major_units_v1(a.settled_minor, a.exponent) AS settled_balance,
       major_units_v1(coalesce(p.debit_minor, 0), a.exponent) AS pending_debit,
       major_units_v1(coalesce(p.credit_minor, 0), a.exponent) AS pending_credit,
       major_units_v1(a.settled_minor + coalesce(p.credit_minor, 0) - coalesce(p.debit_minor, 0)
                      + a.credit_limit_minor, a.exponent) AS available_balance,
       a.version + coalesce(p.entry_count, 0) AS version, a.last_settlement_at
  FROM accounts a LEFT JOIN pending_sums p USING (account_no);

CREATE OR REPLACE VIEW sub_balances AS
SELECT coalesce(e.transaction_id, assigned_transaction_id_v1(e.created_at, e.batch_seq, e.item_no)) AS id,
       a.account_id, major_units_v1(abs(e.change_minor), a.exponent) AS amount,
       CASE WHEN e.change_minor > 0 THEN 'credit' ELSE 'debit' END AS type,
       b.status, e.created_at, coalesce(b.settled_at, e.created_at) AS updated_at,
       e.reference, e.metadata, e.batch_seq, e.item_no, b.settlement_id, e.effective_at, e.reverses
  FROM journal_entries e
  JOIN journal_batches b ON b.batch_seq = e.batch_seq
  JOIN accounts a ON a.account_no = e.account_no;
