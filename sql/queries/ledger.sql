-- Every statement of the ledger but those of verification, by name. A test prepares each one and compares its parameters.

-- name: process_number
-- A number no other process ever had; see process_number_v1.
-- Params: $1 shard smallint
SELECT process_number_v1($1)

-- name: shard_state
-- Who rules a shard, since when, and whether this PostgreSQL is the one that was recorded.
-- Params: $1 shard smallint
SELECT mode, epoch, redis_run_id, redis_replication_id, redis_token, postgres_identity, shard_count, protocol_version,
       forced_mode,
       (extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint AS age_ms,
       postgres_identity IS NOT DISTINCT FROM postgres_identity_v1() AS is_recorded_postgres,
       changed_at > clock_timestamp() - interval '1 second' AS is_fresh
  FROM ledger_shards WHERE shard = $1

-- name: epoch_rules
-- Whether an epoch still rules; see epoch_rules_v1.
-- Params: $1 shard smallint, $2 epoch bigint, $3 word text, $4 mode text
SELECT epoch_rules_v1($1, $2, $3, $4)

-- name: open_epoch
-- The next epoch if the expected one still rules, else NULL; and which PostgreSQL this is.
-- Params: $1 shard smallint, $2 expected_epoch bigint, $3 mode text, $4 redis_run_id text, $5 redis_replication_id text, $6 redis_token text, $7 protocol_version integer, $8 reason text
SELECT open_epoch_v1($1, $2, $3, $4, $5, $6, $7, $8) AS epoch, postgres_identity_v1() AS postgres_identity

-- name: short_redis_epochs
-- How many of the latest epochs of Redis in a row ended by themselves sooner than this.
-- Params: $1 shard smallint, $2 stable_ms bigint, $3 epochs_max bigint
WITH latest AS (
    SELECT epoch, mode, opened_at, reason FROM ledger_epochs WHERE shard = $1 ORDER BY epoch DESC LIMIT $3
), lives AS (
    SELECT epoch, mode, lead(opened_at) OVER following - opened_at AS life, lead(reason) OVER following AS ended_by
      FROM latest WINDOW following AS (ORDER BY epoch)
), ended AS (
    SELECT epoch, extract(epoch FROM life) * 1000 < $2::bigint AS is_short FROM lives
     WHERE mode = 'redis' AND ended_by NOT IN ('force_postgres', 'read_only', 'drain')
)
SELECT count(*) FROM ended
 WHERE epoch > coalesce((SELECT max(epoch) FROM ended WHERE NOT is_short), 0)

-- name: accounts_by_id
-- What never changes about accounts, external ones included.
-- Params: $1 account_ids text[]
SELECT account_no, account_id, currency, exponent FROM accounts WHERE account_id = ANY ($1)

-- name: accounts_to_load
-- Balances for Redis, each account's settled and pending amounts from the one snapshot.
-- Params: $1 account_nos bigint[]
SELECT a.account_no, a.account_id, a.settled_minor::text, a.version::text,
       coalesce(p.debit_minor, 0)::text AS debit_minor, coalesce(p.credit_minor, 0)::text AS credit_minor,
       (a.settled_minor + coalesce(p.credit_minor, 0) - coalesce(p.debit_minor, 0) + a.credit_limit_minor)::text AS available_minor,
       account_stop_v1(a.frozen, a.closed) AS stop, (a.version + coalesce(p.entry_count, 0))::text AS entries
  FROM accounts a LEFT JOIN pending_sums_of_v2($1) AS p USING (account_no)
 WHERE a.account_no = ANY ($1) AND a.kind = 'customer'

-- name: first_rules
-- What an account had before its first change.
-- Params: $1 account_id text
SELECT c.before::text
  FROM account_changes c JOIN accounts a USING (account_no)
 WHERE a.account_id = $1 AND c.outcome = 'changed' ORDER BY c.changed_at LIMIT 1

-- name: journal_batch
-- Journal one micro-batch or one part of a request; see journal_batch_v5. What each item has comes as one
-- text with spaces between, which costs a client a third of what an array does.
-- Params: $1 shard smallint, $2 epoch bigint, $3 word text, $4 attempt_id bigint, $5 extent text, $6 request_scope integer, $7 request_key text, $8 request_name text, $9 request_digest bytea, $10 refusals text, $11 account_nos text, $12 changes_minor text, $13 transaction_ids uuid[], $14 references text[], $15 metadata text[], $16 key_items text, $17 key_scopes text, $18 key_names text, $19 transfer_nos smallint[], $20 group_nos smallint[], $21 holds text, $22 effective_ats timestamptz[], $23 reverses uuid[]
SELECT outcome, accepted_seq, accepted_at, duplicate_items
  FROM journal_batch_v5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
                        string_to_array($11, ' ')::bigint[], string_to_array($12, ' ')::bigint[], $13, $14, $15,
                        string_to_array($16, ' ')::integer[], string_to_array($17, ' ')::integer[], string_to_array($18, ' '), $19, $20, $21, $22, $23)

-- name: decide_batch
-- Decide and journal one micro-batch or one part of a request under row locks; see decide_batch_v5, and
-- journal_batch for the texts.
-- Params: $1 shard smallint, $2 epoch bigint, $3 word text, $4 attempt_id bigint, $5 is_repeated boolean, $6 balance_max bigint, $7 extent text, $8 request_scope integer, $9 request_key text, $10 request_name text, $11 request_digest bytea, $12 refusals text, $13 positions integer[], $14 account_nos text, $15 changes_minor text, $16 transaction_ids uuid[], $17 references text[], $18 metadata text[], $19 key_items text, $20 key_scopes text, $21 key_names text, $22 transfer_nos smallint[], $23 group_nos smallint[], $24 holds text, $25 effective_ats timestamptz[], $26 reverses uuid[], $27 expected_versions bigint[], $28 expected_availables bigint[]
SELECT outcome, accepted_seq, accepted_at, words, availables
  FROM decide_batch_v5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                       string_to_array($14, ' ')::bigint[], string_to_array($15, ' ')::bigint[], $16, $17, $18,
                       string_to_array($19, ' ')::integer[], string_to_array($20, ' ')::integer[], string_to_array($21, ' '), $22, $23, $24, $25, $26, $27, $28)

-- name: foresee_items
-- What would become of items now, without locks; see decide_items_v3.
-- Params: $1 balance_max bigint, $2 account_nos bigint[], $3 changes_minor bigint[], $4 expected_versions bigint[], $5 expected_availables bigint[]
SELECT words, availables FROM decide_items_v3($1, $2, $3, '{}', $4, $5)

-- name: foresee_group
-- What would become of the items of one group now, without locks; see decide_groups_v1.
-- Params: $1 balance_max bigint, $2 account_nos bigint[], $3 changes_minor bigint[]
SELECT words, availables
  FROM decide_groups_v1($1, $2, $3, '{}', array_fill(0::smallint, ARRAY[cardinality($2::bigint[])]))

-- name: requests_by_identity
-- The parts of requests that used any of these keys, and whether a single transaction did instead.
-- Params: $1 scopes integer[], $2 names text[]
SELECT k.scope, k.name, k.item_no = -1 AS is_request, b.batch_seq, b.created_at, b.mode, b.attempt_id, b.request_digest, b.refusals::text
  FROM unnest($1::integer[], $2::text[]) AS w (scope, name)
  JOIN idempotency_keys k ON k.scope = w.scope AND k.name = w.name
  JOIN journal_batches b ON b.batch_seq = k.batch_seq

-- name: entries_by_identity
-- The accepted movements that used any of these keys or ids.
-- Params: $1 scopes integer[], $2 names text[]
SELECT w.scope, w.name, f.*
  FROM unnest($1::integer[], $2::text[]) AS w (scope, name)
 CROSS JOIN LATERAL (
       -- Each by itself: without statistics a join of all at once would read the whole journal.
       SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id, e.reference, e.metadata::text,
              e.effective_at, e.reverses, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at) AS updated_at,
              a.account_no, a.account_id, a.currency, a.exponent, t.transfer_id, t.other_account_id,
              hold_of_v1(e.batch_seq, e.item_no, a.account_id, t.other_account_id) AS hold_id
         FROM idempotency_keys k
         JOIN journal_batches b ON b.batch_seq = k.batch_seq
         JOIN accounts a ON a.account_no = k.account_no
         JOIN journal_entries e ON e.account_no = k.account_no AND e.batch_seq = k.batch_seq
                               AND e.item_no = k.item_no AND e.created_at = b.created_at
         LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t ON true
        WHERE k.scope = w.scope AND k.name = w.name
       OFFSET 0
      ) AS f

-- name: groups_named
-- Which groups of transfers used these keys or ids, each by its batch and its number there; the number is
-- NULL where something else used it.
-- Params: $1 scopes integer[], $2 names text[]
SELECT w.scope, w.name, k.batch_seq, b.group_nos[k.item_no + 1] AS group_no, k.item_no, h.hold_id IS NOT NULL AS is_hold
  FROM unnest($1::integer[], $2::text[]) AS w (scope, name)
  JOIN idempotency_keys k ON k.scope = w.scope AND k.name = w.name
  JOIN journal_batches b ON b.batch_seq = k.batch_seq
  LEFT JOIN hold_acts h ON h.batch_seq = k.batch_seq AND h.item_no = k.item_no

-- name: hold_by_id
-- A hold as it is now.
-- Params: $1 hold_id uuid
SELECT * FROM hold_details WHERE hold_id = $1

-- name: holds_of_account
-- A page of an account's holds after a number, in the order they were placed.
-- Params: $1 account_no bigint, $2 after_hold_no bigint, $3 limit bigint
SELECT d.*
  FROM (SELECT h.hold_id FROM holds h WHERE h.account_no = $1 AND h.hold_no > $2 ORDER BY h.hold_no LIMIT $3) AS page
       -- Each by itself, here and below: a join of all at once could read the whole journal.
 CROSS JOIN LATERAL (SELECT * FROM hold_details d WHERE d.hold_id = page.hold_id OFFSET 0) AS d
 ORDER BY d.hold_no

-- name: holds_by_status
-- The same of those that have a status.
-- Params: $1 account_no bigint, $2 status text, $3 after_hold_no bigint, $4 limit bigint
SELECT d.*
  FROM (SELECT h.hold_id FROM holds h
         WHERE h.account_no = $1 AND h.status = $2 AND h.hold_no > $3 ORDER BY h.hold_no LIMIT $4) AS page
 CROSS JOIN LATERAL (SELECT * FROM hold_details d WHERE d.hold_id = page.hold_id OFFSET 0) AS d
 ORDER BY d.hold_no

-- name: holds_due
-- Holds whose time is up after a time and number, the longest first, but for those whose account takes no
-- credits now.
-- Params: $1 after_expires_at timestamptz, $2 after_hold_no bigint, $3 limit bigint
SELECT d.*
  FROM (SELECT h.hold_id FROM holds h JOIN accounts a USING (account_no)
         WHERE h.status = 'HELD' AND h.expires_at <= statement_timestamp() AND a.frozen NOT IN ('credit', 'all')
           AND (h.expires_at, h.hold_no) > ($1, $2)
         ORDER BY h.expires_at, h.hold_no LIMIT $3) AS due
 CROSS JOIN LATERAL (SELECT * FROM hold_details d WHERE d.hold_id = due.hold_id OFFSET 0) AS d
 ORDER BY d.expires_at, d.hold_no

-- name: hold_acts_at
-- The acts on holds that begin at these places in the journal, with the hold and what was before them.
-- Params: $1 batch_seqs bigint[], $2 item_nos smallint[]
SELECT d.*, x.batch_seq AS act_batch_seq, x.item_no AS act_item_no, x.kind, x.asked, x.version AS act_version,
       x.captured_minor AS act_captured, x.released_minor AS act_released,
       b.created_at AS acted_at, b.mode AS act_mode, b.attempt_id AS act_attempt_id,
       coalesce(s.captured_before, 0) AS captured_before, coalesce(s.released_before, 0) AS released_before
  FROM unnest($1::bigint[], $2::smallint[]) AS w (batch_seq, item_no)
 CROSS JOIN LATERAL (SELECT * FROM hold_acts x WHERE x.batch_seq = w.batch_seq AND x.item_no = w.item_no OFFSET 0) AS x
 CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = x.batch_seq OFFSET 0) AS b
 CROSS JOIN LATERAL (SELECT * FROM hold_details d WHERE d.hold_id = x.hold_id OFFSET 0) AS d
 CROSS JOIN LATERAL (SELECT sum(y.captured_minor) AS captured_before, sum(y.released_minor) AS released_before
                       FROM hold_acts y WHERE y.hold_id = x.hold_id AND y.version < x.version) AS s

-- name: groups_at
-- The groups that the entries at these places in the journal belong to, an entry a row.
-- Params: $1 batch_seqs bigint[], $2 item_nos smallint[]
SELECT g.*, hold_of_v1(g.batch_seq, g.item_no, g.account_id, NULL) AS hold_id
  FROM unnest($1::bigint[], $2::smallint[]) AS w (batch_seq, item_no)
 CROSS JOIN LATERAL (SELECT * FROM group_entries_v1(w.batch_seq, w.item_no) OFFSET 0) AS g

-- name: entry_by_position
-- The accepted movement at a place in the journal, unless its client chose its id.
-- Params: $1 batch_seq bigint, $2 item_no smallint
SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id,
       e.reference, e.metadata::text, e.effective_at, e.reverses, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at) AS updated_at,
       a.account_no, a.account_id, a.currency, a.exponent, t.transfer_id, t.other_account_id,
       hold_of_v1(e.batch_seq, e.item_no, a.account_id, t.other_account_id) AS hold_id
  FROM journal_batches b
  JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at AND e.item_no = $2
  JOIN accounts a ON a.account_no = e.account_no
  LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t ON true
 WHERE b.batch_seq = $1 AND e.transaction_id IS NULL

-- name: balance
-- One account's settled and pending amounts from one snapshot.
-- Params: $1 account_id text
SELECT a.account_no, a.account_id, a.currency, a.exponent, a.settled_minor, a.credit_limit_minor, a.version + p.entry_count AS version,
       p.debit_minor, p.credit_minor, held_v1(a.account_no) AS held_minor, greatest(a.updated_at, p.last_at) AS last_updated_at
  FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
 WHERE a.account_id = $1 AND a.kind = 'customer'

-- name: external_balance
-- An external account's amounts: its pending side is what all customers of its currency have pending.
-- Params: $1 account_id text
SELECT a.account_no, a.account_id, a.currency, a.exponent, a.settled_minor, a.credit_limit_minor, a.version,
       coalesce(p.debit_minor, 0) AS debit_minor, coalesce(p.credit_minor, 0) AS credit_minor, 0::numeric AS held_minor,
       greatest(a.updated_at, p.last_at) AS last_updated_at
  FROM accounts a LEFT JOIN pending_sums p USING (account_no)
 WHERE a.account_id = $1 AND a.kind = 'external'

-- name: pending_page
-- An account's pending movements after a position, and the exact count and sums of all of them.
-- Params: $1 account_no bigint, $2 after_batch_seq bigint, $3 after_item_no smallint, $4 limit bigint
WITH bounds AS MATERIALIZED (
    SELECT min(batch_seq) AS first_seq, min(created_at) AS first_at
      FROM journal_batches WHERE status = 'PENDING'
)
SELECT p.debit_minor, p.credit_minor, p.entry_count, i.*, t.transfer_id, t.other_account_id,
       hold_of_v1(i.batch_seq, i.item_no, (SELECT account_id FROM accounts WHERE account_no = $1), t.other_account_id) AS hold_id
  FROM pending_sums_v1($1) AS p
  LEFT JOIN LATERAL (
       SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id, e.reference,
              e.metadata::text, e.effective_at, e.reverses, b.status, b.mode, b.attempt_id, e.created_at AS updated_at, b.transfer_nos
         FROM journal_batches b
         JOIN journal_entries e ON e.account_no = $1 AND e.batch_seq = b.batch_seq AND e.created_at = b.created_at
        WHERE b.status = 'PENDING' AND (e.batch_seq, e.item_no) > ($2, $3)
          AND e.batch_seq >= (SELECT greatest(first_seq, $2) FROM bounds)
          AND e.created_at >= (SELECT first_at FROM bounds)
        ORDER BY e.batch_seq, e.item_no LIMIT $4) AS i ON true
  LEFT JOIN LATERAL transfer_of_v1(i.batch_seq, i.created_at, i.item_no, i.transfer_nos) AS t ON true
 ORDER BY i.batch_seq, i.item_no

-- name: account_details
-- An account's configuration and counters.
-- Params: $1 account_id text
SELECT a.account_no, a.account_id, a.currency, a.exponent, a.credit_limit_minor, a.metadata::text, a.frozen, a.closed,
       a.config_version, a.version + p.entry_count AS version, a.created_at, a.updated_at
  FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
 WHERE a.account_id = $1

-- name: list_accounts
-- Customers' accounts after a number that are as wanted, and where the search ended if it looked at as
-- many as it may and found fewer than a page.
-- Params: $1 after_account_no bigint, $2 currency text, $3 frozen text, $4 closed boolean, $5 metadata text, $6 limit bigint, $7 looked_at_max bigint
WITH page AS MATERIALIZED (
    SELECT account_no, account_id, currency, exponent, credit_limit_minor, metadata, frozen, closed, config_version,
           version, created_at, updated_at
      FROM (SELECT * FROM accounts
             WHERE account_no > $1 AND kind = 'customer' AND account_id NOT LIKE 'holding:%' ORDER BY account_no LIMIT $7) AS looked_at
     WHERE ($2::text IS NULL OR currency = $2) AND ($3::text IS NULL OR frozen = $3)
       AND ($4::boolean IS NULL OR closed = $4) AND metadata @> $5::text::jsonb
     ORDER BY account_no LIMIT $6
)
SELECT e.ended_at, p.account_no, p.account_id, p.currency, p.exponent, p.credit_limit_minor, p.metadata::text,
       p.frozen, p.closed, p.config_version, p.version + coalesce(s.entry_count, 0) AS version, p.created_at, p.updated_at
  FROM (SELECT CASE WHEN (SELECT count(*) FROM page) < $6
                    THEN (SELECT account_no FROM accounts WHERE account_no > $1 AND kind = 'customer' AND account_id NOT LIKE 'holding:%'
                           ORDER BY account_no OFFSET $7 - 1 LIMIT 1) END AS ended_at) AS e
  LEFT JOIN page p ON true
  LEFT JOIN pending_sums_of_v2(ARRAY(SELECT account_no FROM page)) AS s USING (account_no)
 ORDER BY p.account_no

-- name: change_account
-- Change an account; see change_account_v1.
-- Params: $1 shard smallint, $2 epoch bigint, $3 word text, $4 mode text, $5 attempt_id bigint, $6 account_id text, $7 config_versions bigint[], $8 credit_limit_minor bigint, $9 frozen text, $10 metadata text, $11 closed boolean, $12 available_minor numeric, $13 balance_max bigint
SELECT outcome, balance_minor, limit_minor
  FROM change_account_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: foresee_change
-- Decide a change of an account, take it back, and fail with the outcome; see foresee_change_v1.
-- Params: $1 shard smallint, $2 epoch bigint, $3 word text, $4 mode text, $5 attempt_id bigint, $6 account_id text, $7 config_versions bigint[], $8 credit_limit_minor bigint, $9 frozen text, $10 metadata text, $11 closed boolean, $12 available_minor numeric, $13 balance_max bigint
SELECT foresee_change_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: void_change
-- Put a tombstone on an attempt to change an account unless it was decided; tells its outcome.
-- Params: $1 attempt_id bigint
SELECT void_change_v1($1)

-- name: open_account
-- The new account's number, or NULL when the id is taken.
-- Params: $1 shard smallint, $2 attempt_id bigint, $3 account_id text, $4 external_id text, $5 currency text, $6 exponent smallint, $7 credit_limit_minor bigint, $8 metadata text, $9 opening_minor bigint, $10 opening_name text
SELECT open_account_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: test_account_ids
-- Accounts that were opened for tests.
-- Params: $1 limit bigint
SELECT account_id FROM accounts WHERE metadata @> '{"test": "true"}' ORDER BY account_no LIMIT $1

-- name: settle_chunk
-- Fold pending batches; see settle_chunk_v2.
-- Params: $1 batches_max integer, $2 entries_max bigint
SELECT outcome, settlement, batches, entries FROM settle_chunk_v2($1, $2)

-- name: lines_of_settlement
-- What one settlement did to each customer account, as decimal text.
-- Params: $1 settlement_id bigint
SELECT a.account_no, a.account_id, (l.version_after - l.entry_count)::text AS version_before, l.version_after::text,
       l.settled_after_minor::text, l.debit_minor::text, l.credit_minor::text
  FROM settlement_lines l JOIN accounts a USING (account_no)
 WHERE l.settlement_id = $1 AND a.kind = 'customer'

-- name: lines_since_version
-- Everything settled on one account after a version, as one line of decimal text.
-- Params: $1 account_no bigint, $2 version bigint
SELECT max(version_after)::text AS version_after, (max(settled_after_minor) FILTER (WHERE is_last))::text AS settled_after_minor,
       sum(debit_minor)::text AS debit_minor, sum(credit_minor)::text AS credit_minor
  FROM (SELECT *, version_after = max(version_after) OVER () AS is_last
          FROM settlement_lines WHERE account_no = $1 AND version_after > $2) AS l

-- name: health_facts
-- Age of the oldest pending movement (0 when nothing is pending), what operators have set, and the
-- latest consistency check.
-- Params: $1 shard smallint
SELECT coalesce((SELECT extract(epoch FROM clock_timestamp() - min(created_at)) * 1000
                   FROM journal_batches WHERE status = 'PENDING'), 0)::bigint AS lag_ms,
       pg_is_in_recovery() AS is_standby, s.mode, s.forced_mode, o.action, o.actor, o.acted_at,
       v.is_complete, v.mismatch_count, v.duration_us, v.verified_at, v.compared::text
  FROM ledger_shards s
  LEFT JOIN LATERAL (SELECT * FROM operator_actions ORDER BY action_no DESC LIMIT 1) AS o ON true
  LEFT JOIN LATERAL (SELECT * FROM verifications ORDER BY verification_no DESC LIMIT 1) AS v ON true
 WHERE s.shard = $1

-- name: ensure_partitions
-- Make the journal's partitions for the coming months.
-- Params: $1 months_ahead integer
SELECT ensure_journal_partitions_v1($1)

-- name: void_attempt
-- Put a tombstone on an attempt unless it was journaled; tells whether it is void.
-- Params: $1 shard smallint, $2 attempt_id bigint
SELECT void_attempt_v1($1, $2)

-- name: attempts_journaled
-- Those of these attempts that were journaled, with what each item changed, NULL where it was left out.
-- Params: $1 attempt_ids bigint[]
SELECT attempt_id, changes_minor FROM journal_batches WHERE attempt_id = ANY ($1) AND status <> 'VOID'

-- name: control_ledger
-- Do what an operator asks; see control_ledger_v1.
-- Params: $1 shard smallint, $2 action text, $3 actor text, $4 reason text
SELECT control_ledger_v1($1, $2, $3, $4)

-- name: record_verification
-- Keep the result of a consistency check, and no more than so many of them.
-- Params: $1 epoch bigint, $2 mode text, $3 is_complete boolean, $4 compared text, $5 mismatch_count integer, $6 mismatches text, $7 duration_us bigint, $8 kept bigint
WITH written AS (
    INSERT INTO verifications (epoch, mode, is_complete, compared, mismatch_count, mismatches, duration_us, verified_at)
    VALUES ($1, $2, $3, $4::text::jsonb, $5, $6::text::jsonb, $7, clock_timestamp())
    RETURNING verification_no
)
DELETE FROM verifications WHERE verification_no <= (SELECT verification_no FROM written) - $8::bigint
