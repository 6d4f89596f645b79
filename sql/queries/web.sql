-- What the dashboard asks, by name: each statement looks at a bounded number of rows by an index, however much
-- flows. A test prepares each one and compares its parameters.

-- name: live_seconds
-- What was journaled in each second from an instant on, seconds without anything left out. It looks at so many
-- batches at most; `is_partial` where there were more.
-- Params: $1 from timestamptz, $2 batches_max bigint
WITH batches AS MATERIALIZED (
    SELECT b.created_at, b.entry_count, b.status FROM journal_batches b WHERE b.created_at >= $1 ORDER BY b.created_at LIMIT $2
)
SELECT date_trunc('second', created_at) AS second, sum(entry_count) FILTER (WHERE status <> 'VOID') AS entries,
       (SELECT count(*) FROM batches) >= $2 AS is_partial
  FROM batches GROUP BY 1 ORDER BY 1

-- name: live_clock
-- What time it is here, and when the day began in UTC.
SELECT clock_timestamp() AS now, date_trunc('day', clock_timestamp(), 'UTC') AS today

-- name: live_pending
-- How many entries are accepted and not settled, looking at so many batches at most.
-- Params: $1 batches_max bigint
SELECT coalesce(sum(p.entry_count), 0)::bigint AS entries, count(*) >= $1 AS is_partial
  FROM (SELECT entry_count FROM journal_batches WHERE status = 'PENDING' ORDER BY batch_seq LIMIT $1) AS p

-- name: live_settled
-- What was settled from an instant on by settlements after one that is known, oldest first, so many at most.
-- Params: $1 from timestamptz, $2 after_settlement_id bigint, $3 settlements_max bigint
SELECT settlement_id, settled_at, entry_count
  FROM settlements WHERE settled_at >= $1 AND settlement_id > $2 ORDER BY settled_at LIMIT $3

-- name: live_epochs
-- The latest epochs: who decided from when on, and why.
-- Params: $1 shard smallint, $2 limit bigint
SELECT epoch, mode, reason, opened_at FROM ledger_epochs WHERE shard = $1 ORDER BY epoch DESC LIMIT $2

-- name: live_recent
-- The latest transactions of customers, the newest first.
-- Params: $1 limit bigint
WITH batches AS MATERIALIZED (
    SELECT b.batch_seq, b.created_at, b.status, b.mode, b.attempt_id, b.settled_at, b.transfer_nos
      FROM journal_batches b WHERE b.status <> 'VOID' ORDER BY b.created_at DESC, b.batch_seq DESC LIMIT $1
)
SELECT e.batch_seq, e.item_no, b.created_at, e.change_minor, e.transaction_id, e.reference, e.metadata::text,
       e.effective_at, e.reverses, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, b.created_at) AS updated_at,
       a.account_no, a.account_id, a.currency, a.exponent, t.transfer_id, t.other_account_id,
       hold_of_v1(b.batch_seq, e.item_no, a.account_id, t.other_account_id) AS hold_id
  FROM batches b
 CROSS JOIN LATERAL (
       -- Each batch by itself: without statistics a join of all at once would read the whole journal.
       SELECT * FROM journal_entries WHERE batch_seq = b.batch_seq AND created_at = b.created_at
        ORDER BY item_no DESC LIMIT $1) AS e
  JOIN accounts a ON a.account_no = e.account_no AND a.kind = 'customer' AND a.account_id NOT LIKE 'holding:%'
  LEFT JOIN LATERAL transfer_of_v1(b.batch_seq, b.created_at, e.item_no, b.transfer_nos) AS t ON b.transfer_nos IS NOT NULL
 ORDER BY b.created_at DESC, b.batch_seq DESC, e.item_no DESC LIMIT $1

-- name: live_hot
-- Which customers' accounts the latest entries are of, and how many: a sample of about so many entries.
-- Params: $1 from timestamptz, $2 batches_max bigint, $3 entries_max bigint, $4 limit bigint
WITH batches AS MATERIALIZED (
    SELECT b.*, sum(b.entry_count) OVER (ORDER BY b.created_at DESC, b.batch_seq DESC) - b.entry_count AS entries_before
      FROM (SELECT batch_seq, created_at, entry_count FROM journal_batches
             WHERE created_at >= $1 AND status <> 'VOID' ORDER BY created_at DESC, batch_seq DESC LIMIT $2) AS b
), counted AS MATERIALIZED (
    SELECT e.account_no, count(*) AS entries, sum(count(*)) OVER () AS sampled
      FROM batches b
     CROSS JOIN LATERAL (
           -- Each batch by itself: without statistics a join of all at once would read the whole journal.
           SELECT account_no FROM journal_entries WHERE batch_seq = b.batch_seq AND created_at = b.created_at
           OFFSET 0) AS e
     WHERE b.entries_before < $3
     GROUP BY e.account_no
)
SELECT a.account_id, a.currency, c.entries, c.sampled::bigint AS sampled
  FROM counted c JOIN accounts a ON a.account_no = c.account_no AND a.kind = 'customer' AND a.account_id NOT LIKE 'holding:%'
 ORDER BY c.entries DESC, a.account_id LIMIT $4
