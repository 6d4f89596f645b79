-- Every statement of verification. Each is one snapshot, so each is exact while traffic flows.

-- name: hold_fence
-- Keep the journal still until the SQL transaction ends.
-- Params: $1 shard smallint
SELECT hold_fence_v1($1)

-- name: ruling
-- Who rules, read again under the fence.
-- Params: $1 shard smallint
SELECT mode, epoch FROM ledger_shards WHERE shard = $1

-- name: loaded_accounts
-- What Redis must agree with, for accounts by id.
-- Params: $1 account_ids text[]
SELECT a.account_no, a.account_id, a.exponent, a.credit_limit_minor, a.settled_minor, a.version, a.version + p.entry_count AS entries,
       p.debit_minor, p.credit_minor, account_stop_v1(a.frozen, a.closed) AS stop
  FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
 WHERE a.account_id = ANY ($1)

-- name: settled_at
-- Settled balances of accounts at versions they had.
-- Params: $1 account_nos bigint[], $2 versions bigint[]
SELECT l.account_no, l.settled_after_minor
  FROM unnest($1::bigint[], $2::bigint[]) AS w (account_no, version_after)
  JOIN settlement_lines l USING (account_no, version_after)

-- name: conservation
-- Currencies whose settled balances do not sum to zero.
SELECT currency, min(exponent) AS exponent, sum(settled_minor) AS sum_minor, count(*) OVER () AS currency_count
  FROM accounts GROUP BY currency HAVING sum(settled_minor) <> 0

-- name: accounts_page
-- Accounts after a number, each with its last settlement line and what it has pending.
-- Params: $1 after_account_no bigint, $2 limit bigint
SELECT a.account_no, a.account_id, a.kind, a.exponent, a.settled_minor, a.version, a.credit_limit_minor,
       coalesce(l.settled_after_minor, 0) AS last_settled_minor, coalesce(l.version_after, 0) AS last_version,
       p.debit_minor, p.credit_minor
  FROM accounts a
  LEFT JOIN LATERAL (SELECT settled_after_minor, version_after FROM settlement_lines
                      WHERE account_no = a.account_no ORDER BY version_after DESC LIMIT 1) AS l ON true
 CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
 WHERE a.account_no > $1 ORDER BY a.account_no LIMIT $2

-- name: batches_page
-- Where a page of batches after a number ends, and how much is in it, that of detached months apart; one with
-- many entries is short.
-- Params: $1 after_batch_seq bigint, $2 limit bigint, $3 entries_max bigint
SELECT max(batch_seq) AS last, count(*) AS batch_count, coalesce(sum(entry_count), 0)::bigint AS entry_count,
       coalesce(sum(entry_count) FILTER (WHERE created_at < (SELECT max(d.before) FROM journal_detachments d)), 0)::bigint AS detached_count
  FROM (SELECT batch_seq, entry_count, created_at, sum(entry_count) OVER (ORDER BY batch_seq) - entry_count AS entries_before
          FROM (SELECT batch_seq, entry_count, created_at FROM journal_batches
                 WHERE batch_seq > $1 ORDER BY batch_seq LIMIT $2) AS p) AS b
 WHERE entries_before < $3

-- name: entries_differing
-- Entries of batches in a range that are not what their batch says of them, missing ones included; but for
-- months that were detached.
-- Params: $1 after_batch_seq bigint, $2 last_batch_seq bigint, $3 limit bigint
WITH page AS (
    SELECT batch_seq, created_at, status, changes_minor FROM journal_batches
     WHERE batch_seq > $1 AND batch_seq <= $2 AND (changes_minor IS NOT NULL OR status = 'VOID')
       AND created_at >= coalesce((SELECT max(d.before) FROM journal_detachments d), '-infinity')
), witnessed AS (
    SELECT p.batch_seq, (w.position - 1)::smallint AS item_no, w.change_minor
      FROM page p CROSS JOIN LATERAL unnest(p.changes_minor) WITH ORDINALITY AS w (change_minor, position)
     WHERE w.change_minor IS NOT NULL AND p.status <> 'VOID'
), written AS (
    SELECT e.batch_seq, e.item_no, e.change_minor, e.account_no
      FROM page p JOIN journal_entries e ON e.batch_seq = p.batch_seq AND e.created_at = p.created_at
)
SELECT batch_seq, item_no, w.change_minor AS expected_minor, e.change_minor AS found_minor, a.account_id,
       coalesce(a.exponent, 0::smallint) AS exponent
  FROM witnessed w FULL JOIN written e USING (batch_seq, item_no) LEFT JOIN accounts a USING (account_no)
 WHERE w.change_minor IS DISTINCT FROM e.change_minor
 ORDER BY batch_seq, item_no LIMIT $3

-- name: transfers_differing
-- Transfers of batches in a range that are not one debit and one credit of one amount and currency.
-- Params: $1 after_batch_seq bigint, $2 last_batch_seq bigint, $3 limit bigint
SELECT e.batch_seq, b.transfer_nos[e.item_no + 1] AS transfer_no, min(a.account_id) AS account_id, min(a.exponent) AS exponent,
       sum(e.change_minor) AS found_minor, count(*) AS entry_count
  FROM journal_batches b
  JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
  JOIN accounts a ON a.account_no = e.account_no
 WHERE b.batch_seq > $1 AND b.batch_seq <= $2 AND b.transfer_nos IS NOT NULL AND b.transfer_nos[e.item_no + 1] IS NOT NULL
 GROUP BY e.batch_seq, b.transfer_nos[e.item_no + 1]
HAVING sum(e.change_minor) <> 0 OR count(*) <> 2 OR count(DISTINCT a.currency) <> 1
    OR count(DISTINCT b.group_nos[e.item_no + 1]) <> 1
 ORDER BY e.batch_seq, 2 LIMIT $3

-- name: groups_torn
-- Groups of batches in a range that are done in part.
-- Params: $1 after_batch_seq bigint, $2 last_batch_seq bigint, $3 limit bigint
SELECT b.batch_seq, i.group_no, count(*) AS item_count, count(i.change_minor) AS entry_count
  FROM journal_batches b CROSS JOIN LATERAL unnest(b.group_nos, b.changes_minor) AS i (group_no, change_minor)
 WHERE b.batch_seq > $1 AND b.batch_seq <= $2 AND b.group_nos IS NOT NULL
 GROUP BY b.batch_seq, i.group_no
HAVING count(i.change_minor) NOT IN (0, count(*))
 ORDER BY b.batch_seq, i.group_no LIMIT $3

-- name: holding_differing
-- Holding accounts that have not what is held of all open holds of their currency.
SELECT a.account_id, a.exponent, coalesce(h.held_minor, 0) AS expected_minor,
       a.settled_minor + p.credit_minor - p.debit_minor AS found_minor
  FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
  LEFT JOIN (SELECT c.currency, sum(o.amount_minor - o.captured_minor - o.released_minor) AS held_minor
               FROM holds o JOIN accounts c USING (account_no) WHERE o.status = 'HELD' GROUP BY c.currency) AS h USING (currency)
 WHERE a.account_id LIKE 'holding:%' AND a.kind = 'customer'
   AND coalesce(h.held_minor, 0) <> a.settled_minor + p.credit_minor - p.debit_minor

-- name: holds_page
-- Where a page of holds after a number ends, and how many are in it.
-- Params: $1 after_hold_no bigint, $2 limit bigint
SELECT max(hold_no) AS last, count(*) AS hold_count
  FROM (SELECT hold_no FROM holds WHERE hold_no > $1 ORDER BY hold_no LIMIT $2) AS h

-- name: holds_differing
-- Holds in a range that are not what was done to them, or whose first entry is not their amount.
-- Params: $1 after_hold_no bigint, $2 last_hold_no bigint, $3 limit bigint
SELECT h.hold_id::text, a.account_id, a.exponent,
       CASE WHEN e.change_minor <> -h.amount_minor THEN h.amount_minor ELSE h.captured_minor + h.released_minor END AS found_minor,
       CASE WHEN e.change_minor <> -h.amount_minor THEN -e.change_minor ELSE s.captured_minor + s.released_minor END AS expected_minor
  FROM holds h JOIN accounts a USING (account_no)
  LEFT JOIN LATERAL (SELECT sum(x.captured_minor) AS captured_minor, sum(x.released_minor) AS released_minor,
                            max(x.version) AS version, count(*) AS act_count
                       FROM hold_acts x WHERE x.hold_id = h.hold_id) AS s ON true
  LEFT JOIN hold_acts p ON p.hold_id = h.hold_id AND p.version = 1
  LEFT JOIN journal_entries e ON e.batch_seq = p.batch_seq AND e.item_no = p.item_no AND e.created_at = h.created_at
 WHERE h.hold_no > $1 AND h.hold_no <= $2
   AND ((h.captured_minor, h.released_minor, h.version, h.version::bigint)
        IS DISTINCT FROM (s.captured_minor, s.released_minor, s.version, s.act_count)
        OR (e.account_no, e.change_minor) <> (h.account_no, -h.amount_minor))
 ORDER BY h.hold_no LIMIT $3

-- name: settlements_page
-- Where a page of settlements after an id ends, and how much is in it, what only detached months could prove
-- apart; one with many entries is short.
-- Params: $1 after_settlement_id bigint, $2 limit bigint, $3 entries_max bigint
SELECT max(settlement_id) AS last, count(*) AS settlement_count, coalesce(sum(account_count), 0)::bigint AS line_count,
       coalesce(sum(entry_count), 0)::bigint AS entry_count,
       coalesce(sum(account_count) FILTER (WHERE settlement_id <= (SELECT max(d.last_settlement_id) FROM journal_detachments d)), 0)::bigint AS detached_count
  FROM (SELECT settlement_id, account_count, entry_count,
               sum(entry_count) OVER (ORDER BY settlement_id) - entry_count AS entries_before
          FROM (SELECT settlement_id, account_count, entry_count FROM settlements
                 WHERE settlement_id > $1 ORDER BY settlement_id LIMIT $2) AS p) AS s
 WHERE entries_before < $3::bigint

-- name: lines_differing
-- Settlement lines in a range that are not the sums of the entries they settled, with what was detached of
-- those; but for settlements of which all is detached. What customers were credited the external account of
-- their currency was debited.
-- Params: $1 after_settlement_id bigint, $2 last_settlement_id bigint, $3 limit bigint
WITH bounds AS MATERIALIZED (
    SELECT greatest($1, max(d.last_settlement_id)) AS after FROM journal_detachments d
), parts AS (
    SELECT b.settlement_id, e.account_no, count(*) AS entry_count,
           coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0) AS debit_minor,
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0) AS credit_minor
      FROM journal_batches b JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
     WHERE b.settlement_id > $1 AND b.settlement_id <= $2 AND b.settlement_id > (SELECT after FROM bounds)
     GROUP BY b.settlement_id, e.account_no
    UNION ALL
    SELECT s.settlement_id, s.account_no, s.entry_count, s.debit_minor, s.credit_minor FROM detached_sums s
     WHERE s.settlement_id <= $2 AND s.settlement_id > (SELECT after FROM bounds)
), customers AS (
    SELECT settlement_id, account_no, sum(entry_count) AS entry_count, sum(debit_minor) AS debit_minor, sum(credit_minor) AS credit_minor
      FROM parts GROUP BY settlement_id, account_no
), summed AS (
    SELECT settlement_id, account_no, entry_count, debit_minor, credit_minor FROM customers
    UNION ALL
    SELECT c.settlement_id, x.account_no, sum(c.entry_count), sum(c.credit_minor), sum(c.debit_minor)
      FROM customers c JOIN accounts a USING (account_no)
      JOIN accounts x ON x.currency = a.currency AND x.kind = 'external'
     GROUP BY c.settlement_id, x.account_no
), lines AS (
    SELECT settlement_id, account_no, entry_count, debit_minor, credit_minor FROM settlement_lines
     WHERE settlement_id > $1 AND settlement_id <= $2 AND settlement_id > (SELECT after FROM bounds)
)
SELECT settlement_id, a.account_id, coalesce(a.exponent, 0::smallint) AS exponent,
       s.entry_count AS expected_count, l.entry_count AS found_count,
       s.credit_minor - s.debit_minor AS expected_minor, l.credit_minor - l.debit_minor AS found_minor
  FROM summed s FULL JOIN lines l USING (settlement_id, account_no) LEFT JOIN accounts a USING (account_no)
 WHERE (s.entry_count, s.debit_minor, s.credit_minor) IS DISTINCT FROM (l.entry_count, l.debit_minor, l.credit_minor)
 ORDER BY settlement_id, account_no LIMIT $3

-- name: settlements_differing
-- Settlements in a range whose counts are not those of what they settled.
-- Params: $1 after_settlement_id bigint, $2 last_settlement_id bigint, $3 limit bigint
SELECT s.settlement_id, s.batch_count, s.entry_count, s.account_count, b.batches, b.entries, l.customers
  FROM settlements s
  LEFT JOIN LATERAL (SELECT count(*) AS batches, coalesce(sum(entry_count), 0)::bigint AS entries
                       FROM journal_batches WHERE settlement_id = s.settlement_id) AS b ON true
  LEFT JOIN LATERAL (SELECT count(*) AS customers FROM settlement_lines l JOIN accounts a USING (account_no)
                      WHERE l.settlement_id = s.settlement_id AND a.kind = 'customer') AS l ON true
 WHERE s.settlement_id > $1 AND s.settlement_id <= $2
   AND (s.batch_count, s.entry_count, s.account_count) IS DISTINCT FROM (b.batches, b.entries, l.customers)
 ORDER BY s.settlement_id LIMIT $3

-- name: chains_broken
-- Settlement lines of accounts in a range that do not follow from the line before.
-- Params: $1 after_account_no bigint, $2 last_account_no bigint, $3 limit bigint
SELECT a.account_id, a.exponent, c.version_after, c.expected_minor, c.settled_after_minor AS found_minor
  FROM (SELECT account_no, version_after, settled_after_minor,
               lag(settled_after_minor, 1, 0) OVER chain + credit_minor - debit_minor AS expected_minor,
               lag(version_after, 1, 0::bigint) OVER chain + entry_count AS expected_version
          FROM settlement_lines WHERE account_no > $1 AND account_no <= $2
        WINDOW chain AS (PARTITION BY account_no ORDER BY version_after)) AS c
  JOIN accounts a USING (account_no)
 WHERE c.settled_after_minor <> c.expected_minor OR c.version_after <> c.expected_version
 ORDER BY c.account_no, c.version_after LIMIT $3
