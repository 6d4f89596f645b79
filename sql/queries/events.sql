-- Every statement of the events, by name. A test prepares each one and compares its parameters.

-- name: event_watermark
-- A time before which everything that happened is visible to later statements, see event_watermark_v1, and now.
-- Params: $1 shard smallint
SELECT event_watermark_v1($1) AS before, clock_timestamp() AS now

-- name: event_page
-- What happened from a place on and before a time, an entry of the journal a row, in order: batches that were
-- accepted (kind 0) by their time, and batches that were settled (kind 1) by that of their settlement, at most
-- so many batches and about so many entries. A batch without entries that are wanted has a row without one.
-- Params: $1 at timestamptz, $2 kind smallint, $3 batch_seq bigint, $4 step integer, $5 before timestamptz, $6 batches_max bigint, $7 entries_max bigint, $8 account_no bigint
WITH bounds AS MATERIALIZED (
    -- No more settlements than a page could need, so nothing from behind them either.
    SELECT least($5, (SELECT s.settled_at FROM settlements s WHERE s.settled_at >= $1 ORDER BY s.settled_at OFFSET 4 LIMIT 1)) AS before
), batches AS MATERIALIZED (
    SELECT x.*, sum(x.entry_count) OVER (ORDER BY x.at, x.kind, x.batch_seq) - x.entry_count AS entries_before
      FROM (
        (SELECT b.created_at AS at, 0 AS kind, b.batch_seq, b.entry_count, b.created_at, b.mode, b.transfer_nos
           FROM journal_batches b
          WHERE (b.created_at, b.batch_seq) >= ($1, CASE WHEN $2 = 0::smallint THEN $3 ELSE 9223372036854775807 END)
            AND b.created_at < (SELECT before FROM bounds) AND b.status <> 'VOID'
          ORDER BY b.created_at, b.batch_seq LIMIT $6)
        UNION ALL
        (SELECT s.settled_at, 1, b.*
           FROM (SELECT settlement_id, settled_at FROM settlements
                  WHERE settled_at >= $1 AND settled_at < (SELECT before FROM bounds) ORDER BY settled_at LIMIT 4) AS s
          CROSS JOIN LATERAL (
                -- By the settlement's own index: in order of batches it might be looked for in the whole journal.
                SELECT c.* FROM (
                       SELECT b.batch_seq, b.entry_count, b.created_at, b.mode, b.transfer_nos
                         FROM journal_batches b WHERE b.settlement_id = s.settlement_id OFFSET 0) AS c
                 WHERE c.batch_seq >= CASE WHEN s.settled_at > $1 OR $2 = 0::smallint THEN 0 ELSE $3 END
                 ORDER BY c.batch_seq LIMIT $6) AS b)
      ) AS x
     ORDER BY x.at, x.kind, x.batch_seq LIMIT $6
)
SELECT u.at, u.kind, u.batch_seq, u.created_at, u.mode,
       e.item_no, e.change_minor, e.transaction_id, e.reference, e.metadata::text, e.effective_at, e.reverses,
       a.account_no, a.account_id, a.currency, a.exponent, e.transfer_id, o.account_id AS other_account_id,
       hold_of_v1(u.batch_seq, e.item_no, a.account_id, o.account_id) AS hold_id,
       coalesce(e.is_act, false) AS is_act
  FROM batches u
  LEFT JOIN LATERAL (
       -- Each batch by itself: without statistics a join of all at once would read the whole journal.
       SELECT i.*, i.act_hold_id IS NOT NULL AS is_act
         FROM (
              -- A transfer has the id of its debit. Both halves are here, so neither has to be looked up.
              SELECT e.account_no, e.item_no, e.change_minor, e.transaction_id, e.reference, e.metadata, e.effective_at, e.reverses,
                     h.hold_id AS act_hold_id,
                     CASE WHEN u.transfer_nos[e.item_no + 1] IS NOT NULL
                          THEN (sum(e.account_no) OVER halves - e.account_no)::bigint END AS other_account_no,
                     CASE WHEN u.transfer_nos[e.item_no + 1] IS NOT NULL
                          THEN coalesce((array_agg(e.transaction_id) FILTER (WHERE e.change_minor < 0) OVER halves)[1],
                                        assigned_transaction_id_v1(u.created_at, u.batch_seq,
                                                                   max(e.item_no) FILTER (WHERE e.change_minor < 0) OVER halves))
                     END AS transfer_id
                FROM journal_entries e
                LEFT JOIN hold_acts h ON u.kind = 0 AND h.batch_seq = e.batch_seq AND h.item_no = e.item_no
               WHERE e.batch_seq = u.batch_seq AND e.created_at = u.created_at
              WINDOW halves AS (PARTITION BY u.transfer_nos[e.item_no + 1])) AS i
        WHERE ((u.at, u.kind, u.batch_seq) <> ($1, $2, $3) OR i.item_no * 4 + 3 >= $4)
          AND ($8::bigint IS NULL OR i.account_no = $8
               OR (SELECT o.account_no FROM holds o WHERE o.hold_id = i.act_hold_id) = $8)
       OFFSET 0) AS e ON true
  LEFT JOIN accounts a ON a.account_no = e.account_no
  LEFT JOIN accounts o ON o.account_no = e.other_account_no
 WHERE u.entries_before < $7
 ORDER BY u.at, u.kind, u.batch_seq, e.item_no

-- name: event_cursors
-- Where the sinks stand, and since when the oldest thing waits that a sink was not told.
-- Params: none
SELECT c.sink, c.at, c.kind, c.batch_seq, c.step, c.generation, c.mark, c.told_count, c.updated_at, w.status AS webhook_status,
       greatest(0, extract(epoch FROM clock_timestamp() - least(
           (SELECT b.created_at FROM journal_batches b
             WHERE (b.created_at, b.batch_seq) >= (c.at, CASE WHEN c.kind = 0 THEN c.batch_seq ELSE 9223372036854775807 END)
               AND b.status <> 'VOID' ORDER BY b.created_at, b.batch_seq LIMIT 1),
           (SELECT s.settled_at FROM settlements s
             WHERE s.settled_at > c.at
                OR (s.settled_at = c.at AND (c.kind = 0 OR EXISTS (
                       SELECT FROM journal_batches b WHERE b.settlement_id = s.settlement_id AND b.batch_seq >= c.batch_seq)))
             ORDER BY s.settled_at LIMIT 1))))::float8 AS lag_s
  FROM event_cursors c LEFT JOIN webhooks w ON c.sink = 'webhook:' || w.webhook_id
 ORDER BY c.sink

-- name: event_cursor
-- Where one sink stands.
-- Params: $1 sink text
SELECT sink, at, kind, batch_seq, step, generation, mark FROM event_cursors WHERE sink = $1

-- name: move_event_cursor
-- Put a sink's cursor elsewhere, unless somebody else has since it was read; tells its new generation.
-- Params: $1 sink text, $2 generation bigint, $3 at timestamptz, $4 kind smallint, $5 batch_seq bigint, $6 step integer, $7 mark text, $8 told bigint
UPDATE event_cursors
   SET at = $3, kind = $4, batch_seq = $5, step = $6, mark = $7, told_count = told_count + $8, generation = generation + 1, updated_at = clock_timestamp()
 WHERE sink = $1 AND generation = $2
RETURNING generation

-- name: finish_webhook_page
-- Write down what became of deliveries and put the webhook's cursor behind them, unless somebody else moved it;
-- tells its new generation.
-- Params: $1 webhook_id uuid, $2 generation bigint, $3 at timestamptz, $4 kind smallint, $5 batch_seq bigint, $6 step integer, $7 statuses text[], $8 event_ids text[], $9 event_types text[], $10 account_ids text[], $11 sequences text[], $12 tries integer[], $13 http_statuses integer[], $14 details text[]
WITH written AS (
    INSERT INTO webhook_deliveries (webhook_no, status, event_id, event_type, account_id, sequence, tries, http_status, detail, ended_at)
    SELECT w.webhook_no, d.*, clock_timestamp()
      FROM webhooks w
     CROSS JOIN unnest($7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::integer[], $13::integer[], $14::text[]) AS d
     WHERE w.webhook_id = $1
)
UPDATE event_cursors
   SET at = $3, kind = $4, batch_seq = $5, step = $6, told_count = told_count + cardinality($7::text[]),
       generation = generation + 1, updated_at = clock_timestamp()
 WHERE sink = 'webhook:' || $1::uuid AND generation = $2
RETURNING generation

-- name: add_webhook
-- Keep a webhook unless there are as many as may be; tells whether it was kept.
-- Params: $1 webhook_id uuid, $2 url text, $3 secret text, $4 types text[], $5 account_id text, $6 webhooks_max integer
SELECT add_webhook_v1($1, $2, $3, $4, $5, $6)

-- name: webhooks
-- Every webhook, or one of them, with where it stands.
-- Params: $1 webhook_id uuid
SELECT w.*, c.at, c.kind, c.batch_seq, c.step
  FROM webhooks w JOIN event_cursors c ON c.sink = 'webhook:' || w.webhook_id
 WHERE $1::uuid IS NULL OR w.webhook_id = $1
 ORDER BY w.webhook_no

-- name: remove_webhook
-- Forget a webhook and everything about it.
-- Params: $1 webhook_id uuid
WITH removed AS (
    DELETE FROM webhooks WHERE webhook_id = $1 RETURNING *
), ended AS (
    DELETE FROM event_cursors WHERE sink = 'webhook:' || $1::uuid RETURNING at, kind, batch_seq, step
)
SELECT r.*, e.at, e.kind, e.batch_seq, e.step FROM removed r CROSS JOIN ended e

-- name: set_webhook_status
-- Enable or disable a webhook; with a version, only as long as it still has that.
-- Params: $1 webhook_id uuid, $2 status text, $3 reason text, $4 version bigint
UPDATE webhooks SET status = $2, reason = $3, version = version + 1, updated_at = clock_timestamp()
 WHERE webhook_id = $1 AND ($4::bigint IS NULL OR version = $4)
RETURNING webhook_id

-- name: replay_webhook
-- Enable a webhook and tell it everything from a place on once more.
-- Params: $1 webhook_id uuid, $2 at timestamptz, $3 kind smallint, $4 batch_seq bigint, $5 step integer
WITH replayed AS (
    UPDATE webhooks SET status = 'enabled', reason = NULL, version = version + 1, updated_at = clock_timestamp()
     WHERE webhook_id = $1
    RETURNING webhook_id
)
UPDATE event_cursors
   SET at = least($2, clock_timestamp()), kind = $3, batch_seq = $4, step = $5, generation = generation + 1, updated_at = clock_timestamp()
 WHERE sink = 'webhook:' || (SELECT webhook_id FROM replayed)
RETURNING sink

-- name: webhook_deliveries
-- A page of a webhook's deliveries before a number, the latest first.
-- Params: $1 webhook_id uuid, $2 status text, $3 before_delivery_no bigint, $4 limit bigint
SELECT d.*
  FROM webhooks w
 CROSS JOIN unnest(ARRAY['delivered', 'dead']) AS wanted
 CROSS JOIN LATERAL (
       SELECT * FROM webhook_deliveries x
        WHERE x.webhook_no = w.webhook_no AND x.status = wanted AND x.delivery_no < $3
        ORDER BY x.delivery_no DESC LIMIT $4) AS d
 WHERE w.webhook_id = $1 AND ($2::text IS NULL OR wanted = $2)
 ORDER BY d.delivery_no DESC LIMIT $4

-- name: forget_deliveries
-- Remove what is more than is kept of each webhook's deliveries, a bounded number at a time.
-- Params: $1 delivered_kept bigint, $2 dead_kept bigint, $3 limit bigint
DELETE FROM webhook_deliveries WHERE delivery_no IN (
    SELECT d.delivery_no
      FROM webhooks w
     CROSS JOIN LATERAL (VALUES ('delivered', $1::bigint), ('dead', $2::bigint)) AS k (status, kept)
     CROSS JOIN LATERAL (
           SELECT x.delivery_no FROM webhook_deliveries x
            WHERE x.webhook_no = w.webhook_no AND x.status = k.status
            ORDER BY x.delivery_no DESC OFFSET k.kept LIMIT $3) AS d
     LIMIT $3)
RETURNING delivery_no
