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
    SELECT min(a.xact_start), bool_or(a.query = '<insufficient privilege>') INTO v_oldest, v_hidden
      FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.classid = fence_class_v1()::oid AND l.objid = p_shard::integer::oid
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND l.pid <> pg_backend_pid();
    IF v_hidden THEN
        RAISE EXCEPTION 'who journals is hidden from role %; grant it pg_read_all_stats', current_user
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
