-- Reading history: balances as of an instant, statements, search. What they read of the time below the
-- watermark never changes, but for the status; so a page may take several statements.

-- name: watermark
-- How far everything that was journaled is visible to the statements after this one, the present, and from
-- when on there is history: for rows, and for balances.
-- Params: $1 shard smallint
SELECT journal_watermark_v1($1) AS watermark, clock_timestamp() AS now, d.before AS rows_from, d.available_from AS balances_from
  FROM (SELECT max(before) AS before, max(available_from) AS available_from FROM journal_detachments) AS d

-- name: booked_at
-- What an account had after a place in its history; NULL where that is detached. See booked_before_v1.
-- Params: $1 account_no bigint, $2 at timestamptz, $3 batch_seq bigint, $4 item_no smallint
SELECT booked_before_v1($1, $2) + coalesce((
       SELECT sum(e.change_minor)
         FROM (SELECT * FROM journal_entries WHERE account_no = $1 AND created_at = $2 OFFSET 0) AS e
        WHERE (e.batch_seq, e.item_no) <= ($3, $4)), 0) AS balance_minor

-- name: backdated_since
-- What was booked from an instant on and counts before it.
-- Params: $1 account_no bigint, $2 before timestamptz
SELECT coalesce(sum(e.change_minor), 0) AS change_minor
  FROM journal_entries e
 WHERE e.account_no = $1 AND e.created_at >= $2 AND e.effective_at < $2

-- name: statement_rows
-- An account's entries after a place and before an instant, in the order they were booked.
-- Params: $1 account_no bigint, $2 after_at timestamptz, $3 after_batch_seq bigint, $4 after_item_no smallint, $5 before timestamptz, $6 limit bigint
SELECT r.*, hold_of_v1(r.batch_seq, r.item_no, r.account_id, r.other_account_id) AS hold_id FROM statement_rows_v1($1, $2, $3, $4, $5, $6) AS r

-- name: search
-- Entries before a place that are as wanted, the newest first, see search_v1; and where the search ended if it
-- looked at as many as it may and found fewer than a page.
-- Params: $1 account_no bigint, $2 reference text, $3 from timestamptz, $4 before_at timestamptz, $5 before_batch_seq bigint, $6 before_item_no smallint, $7 status text, $8 direction text, $9 amount_min numeric, $10 amount_max numeric, $11 metadata text, $12 limit bigint, $13 looked_at_max bigint
WITH page AS MATERIALIZED (
    SELECT * FROM search_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
)
SELECT l.ended_at, l.ended_batch_seq, l.ended_item_no, p.*, hold_of_v1(p.batch_seq, p.item_no, p.account_id, p.other_account_id) AS hold_id
  FROM search_end_v1($1, $2, $3, $4, $5, $6, $13, (SELECT count(*) FROM page) < $12) AS l
  LEFT JOIN page p ON true
 ORDER BY p.created_at DESC, p.batch_seq DESC, p.item_no DESC

-- name: detach
-- Detach the journal's months before the beginning of one; see detach_journal_v1.
-- Params: $1 shard smallint, $2 before timestamptz, $3 actor text, $4 reason text
SELECT outcome, tables FROM detach_journal_v1($1, $2, $3, $4)
