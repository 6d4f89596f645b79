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
       SELECT sum(e.change_minor) FROM journal_entries e
        WHERE e.account_no = $1 AND e.created_at = $2 AND (e.batch_seq, e.item_no) <= ($3, $4)), 0) AS balance_minor

-- name: backdated_since
-- What was booked from an instant on and counts before it.
-- Params: $1 account_no bigint, $2 before timestamptz
SELECT coalesce(sum(e.change_minor), 0) AS change_minor
  FROM journal_entries e
 WHERE e.account_no = $1 AND e.created_at >= $2 AND e.effective_at < $2

-- name: statement_rows
-- An account's entries after a place and before an instant, in the order they were booked.
-- Params: $1 account_no bigint, $2 after_at timestamptz, $3 after_batch_seq bigint, $4 after_item_no smallint, $5 before timestamptz, $6 limit bigint
SELECT e.*, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at) AS updated_at, t.transfer_id, t.other_account_id
  FROM (SELECT batch_seq, item_no, created_at, change_minor, transaction_id, reference, metadata::text, effective_at, reverses
          FROM journal_entries
         WHERE account_no = $1 AND created_at >= $2 AND created_at < $5 AND (created_at, batch_seq, item_no) > ($2, $3, $4)
         ORDER BY created_at, batch_seq, item_no LIMIT $6) AS e
 CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = e.batch_seq OFFSET 0) AS b
  LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t ON true
 ORDER BY e.created_at, e.batch_seq, e.item_no

-- name: search_account
-- An account's entries before a place that are as wanted, the newest first; and where the search ended if it
-- looked at as many as it may and found fewer than a page.
-- Params: $1 account_no bigint, $2 from timestamptz, $3 before_at timestamptz, $4 before_batch_seq bigint, $5 before_item_no smallint, $6 status text, $7 direction text, $8 amount_min numeric, $9 amount_max numeric, $10 metadata text, $11 limit bigint, $12 looked_at_max bigint
WITH page AS MATERIALIZED (
    SELECT e.*, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at) AS updated_at, b.transfer_nos
      FROM (SELECT * FROM journal_entries
             WHERE account_no = $1 AND created_at >= $2 AND created_at <= $3 AND (created_at, batch_seq, item_no) < ($3, $4, $5)
             ORDER BY created_at DESC, batch_seq DESC, item_no DESC LIMIT $12) AS e
     CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = e.batch_seq OFFSET 0) AS b
     CROSS JOIN LATERAL (SELECT a.exponent FROM accounts a WHERE a.account_no = e.account_no OFFSET 0) AS a
     WHERE ($6::text IS NULL OR b.status = $6) AND ($7::text IS NULL OR (e.change_minor > 0) = ($7 = 'credit'))
       AND ($8::numeric IS NULL OR abs(e.change_minor) >= $8 * 10::numeric ^ a.exponent)
       AND ($9::numeric IS NULL OR abs(e.change_minor) <= $9 * 10::numeric ^ a.exponent)
       AND ($10::text IS NULL OR e.metadata @> $10::jsonb)
     ORDER BY e.created_at DESC, e.batch_seq DESC, e.item_no DESC LIMIT $11
)
SELECT l.created_at AS ended_at, l.batch_seq AS ended_batch_seq, l.item_no AS ended_item_no,
       p.batch_seq, p.item_no, p.created_at, p.change_minor, p.transaction_id, p.reference, p.metadata::text, p.effective_at,
       p.reverses, p.status, p.mode, p.attempt_id, p.updated_at, a.account_no, a.account_id, a.currency, a.exponent,
       t.transfer_id, t.other_account_id
  FROM (SELECT) AS one
  LEFT JOIN LATERAL (
       SELECT created_at, batch_seq, item_no FROM journal_entries
        WHERE account_no = $1 AND created_at >= $2 AND created_at <= $3 AND (created_at, batch_seq, item_no) < ($3, $4, $5)
          AND (SELECT count(*) FROM page) < $11
        ORDER BY created_at DESC, batch_seq DESC, item_no DESC OFFSET $12 - 1 LIMIT 1) AS l ON true
  LEFT JOIN page p ON true
  LEFT JOIN LATERAL (SELECT * FROM accounts a WHERE a.account_no = p.account_no OFFSET 0) AS a ON true
  LEFT JOIN LATERAL transfer_of_v1(p.batch_seq, p.created_at, p.item_no, p.transfer_nos) AS t ON true
 ORDER BY p.created_at DESC, p.batch_seq DESC, p.item_no DESC

-- name: search_reference
-- As search_account, by reference: of all accounts, or of one.
-- Params: $1 reference text, $2 from timestamptz, $3 before_at timestamptz, $4 before_batch_seq bigint, $5 before_item_no smallint, $6 status text, $7 direction text, $8 amount_min numeric, $9 amount_max numeric, $10 metadata text, $11 limit bigint, $12 looked_at_max bigint, $13 account_no bigint
WITH page AS MATERIALIZED (
    SELECT e.*, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at) AS updated_at, b.transfer_nos
      FROM (SELECT * FROM journal_entries
             WHERE reference = $1 AND created_at >= $2 AND created_at <= $3 AND (created_at, batch_seq, item_no) < ($3, $4, $5)
             ORDER BY created_at DESC, batch_seq DESC, item_no DESC LIMIT $12) AS e
     CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = e.batch_seq OFFSET 0) AS b
     CROSS JOIN LATERAL (SELECT a.exponent FROM accounts a WHERE a.account_no = e.account_no OFFSET 0) AS a
     WHERE ($6::text IS NULL OR b.status = $6) AND ($7::text IS NULL OR (e.change_minor > 0) = ($7 = 'credit'))
       AND ($8::numeric IS NULL OR abs(e.change_minor) >= $8 * 10::numeric ^ a.exponent)
       AND ($9::numeric IS NULL OR abs(e.change_minor) <= $9 * 10::numeric ^ a.exponent)
       AND ($13::bigint IS NULL OR e.account_no = $13)
       AND ($10::text IS NULL OR e.metadata @> $10::jsonb)
     ORDER BY e.created_at DESC, e.batch_seq DESC, e.item_no DESC LIMIT $11
)
SELECT l.created_at AS ended_at, l.batch_seq AS ended_batch_seq, l.item_no AS ended_item_no,
       p.batch_seq, p.item_no, p.created_at, p.change_minor, p.transaction_id, p.reference, p.metadata::text, p.effective_at,
       p.reverses, p.status, p.mode, p.attempt_id, p.updated_at, a.account_no, a.account_id, a.currency, a.exponent,
       t.transfer_id, t.other_account_id
  FROM (SELECT) AS one
  LEFT JOIN LATERAL (
       SELECT created_at, batch_seq, item_no FROM journal_entries
        WHERE reference = $1 AND created_at >= $2 AND created_at <= $3 AND (created_at, batch_seq, item_no) < ($3, $4, $5)
          AND (SELECT count(*) FROM page) < $11
        ORDER BY created_at DESC, batch_seq DESC, item_no DESC OFFSET $12 - 1 LIMIT 1) AS l ON true
  LEFT JOIN page p ON true
  LEFT JOIN LATERAL (SELECT * FROM accounts a WHERE a.account_no = p.account_no OFFSET 0) AS a ON true
  LEFT JOIN LATERAL transfer_of_v1(p.batch_seq, p.created_at, p.item_no, p.transfer_nos) AS t ON true
 ORDER BY p.created_at DESC, p.batch_seq DESC, p.item_no DESC
