-- The oldest pending batch by one look at an index.
--
-- Why: every balance, every loading of accounts and every decision of PostgreSQL asks for the time of the oldest
-- pending batch. Since there is an index of all batches by time (0009), the planner goes through that one from the
-- beginning of history to find it: it takes batches for pending anywhere. Locks: SHARE on journal_batches while it
-- is read once, waited for at most two seconds; the journal waits meanwhile. Safe while old code runs: yes.
SET LOCAL lock_timeout = '2s';
CREATE INDEX journal_batches_pending_time ON journal_batches (created_at) WHERE status = 'PENDING';
