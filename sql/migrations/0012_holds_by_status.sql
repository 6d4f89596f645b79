-- Holds of an account by their status, in the order they were placed.
--
-- Why: GET /holds?status= read every hold of an account to find those that are as wanted. Locks: SHARE on holds
-- while they are read once and the index is built, waited for at most two seconds; what is done to holds waits
-- meanwhile. Safe while old code runs: yes.

SET LOCAL lock_timeout = '2s';
CREATE INDEX holds_status ON holds (account_no, status, hold_no);
