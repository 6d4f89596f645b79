-- The oldest pending batch by one look at an index, and pending sums by account whatever the planner knows.
--
-- Why: every balance, every loading of accounts and every decision of PostgreSQL asks for the time of the oldest
-- pending batch. Since there is an index of all batches by time (0009), the planner goes through that one from the
-- beginning of history to find it: it takes batches for pending anywhere. Locks: SHARE on journal_batches while it
-- is read once, waited for at most two seconds; the journal waits meanwhile. Safe while old code runs: yes.
SET LOCAL lock_timeout = '2s';
CREATE INDEX journal_batches_pending_time ON journal_batches (created_at) WHERE status = 'PENDING';

-- Pending sums as before, found by account: the planner, which knows little of pending batches, might otherwise
-- go through a batch of thousands once for each account of it. "+ 0" keeps it from the index by batch.
CREATE OR REPLACE FUNCTION pending_sums_v1(p_account_no bigint)
RETURNS TABLE (debit_minor numeric, credit_minor numeric, entry_count bigint, last_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0), count(*), max(e.created_at)
      FROM journal_entries e JOIN journal_batches b ON b.batch_seq = e.batch_seq + 0 AND b.status = 'PENDING'
     WHERE e.account_no = p_account_no
       AND e.created_at >= (SELECT min(p.created_at) FROM journal_batches p WHERE p.status = 'PENDING')
$$;

CREATE OR REPLACE FUNCTION pending_sums_of_v2(p_account_nos bigint[])
RETURNS TABLE (account_no bigint, debit_minor numeric, credit_minor numeric, entry_count bigint) LANGUAGE sql STABLE AS $$
    SELECT e.account_no, coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0), count(*)
      FROM journal_entries e JOIN journal_batches b ON b.batch_seq = e.batch_seq + 0 AND b.status = 'PENDING'
     WHERE e.account_no = ANY (p_account_nos)
       AND e.created_at >= (SELECT min(p.created_at) FROM journal_batches p WHERE p.status = 'PENDING')
     GROUP BY e.account_no
$$;
