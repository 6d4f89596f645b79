-- What looking after the database reads: catalogues and statistics, and what is pending.

-- name: upkeep_tables
-- The tables of the ledger, partitions included.
SELECT c.relname AS table
  FROM pg_class c
 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' ORDER BY c.relname;

-- name: upkeep_bloat
-- Tables with at least so many dead rows and such a share of them.
-- Params: $1 dead_min bigint, $2 share_min float8
SELECT relname AS table, n_dead_tup AS dead, n_live_tup AS live
  FROM pg_stat_user_tables
 WHERE schemaname = current_schema() AND n_dead_tup >= $1::bigint
   AND n_dead_tup >= $2::float8 * (n_live_tup + n_dead_tup) ORDER BY relname;

-- name: upkeep_index
-- Whether an index is valid; NULL where there is none.
-- Params: $1 name text
SELECT i.indisvalid AND i.indisready
  FROM pg_index i WHERE i.indexrelid = to_regclass(quote_ident($1::text));

-- name: upkeep_leaves
-- The partitions of a table, none where it has none.
-- Params: $1 name text
SELECT c.relname AS table
  FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
 WHERE h.inhparent = to_regclass(quote_ident($1::text)) ORDER BY c.relname;

-- name: upkeep_sizes
-- The largest tables.
SELECT relname AS table, n_live_tup AS rows, pg_size_pretty(pg_relation_size(relid)) AS size,
       pg_size_pretty(pg_indexes_size(relid)) AS indexes
  FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY pg_total_relation_size(relid) DESC LIMIT 15;

-- name: upkeep_index_use
-- The largest indexes and how often each was read.
SELECT s.relname AS table, s.indexrelname AS index, s.idx_scan AS reads,
       pg_size_pretty(pg_relation_size(s.indexrelid)) AS size, i.indisvalid AS valid
  FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
 WHERE s.schemaname = current_schema() ORDER BY pg_relation_size(s.indexrelid) DESC, s.indexrelname LIMIT 25;

-- name: upkeep_dead
-- The tables with the most dead rows.
SELECT relname AS table, n_dead_tup AS dead, n_live_tup AS live,
       coalesce(last_autovacuum, last_vacuum)::timestamp(0) AS vacuumed,
       coalesce(last_autoanalyze, last_analyze)::timestamp(0) AS analyzed
  FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY n_dead_tup DESC, relname LIMIT 10;

-- name: upkeep_cache
-- How many of the blocks that were asked for were in PostgreSQL's own cache.
SELECT round(100.0 * sum(heap_blks_hit) / nullif(sum(heap_blks_hit + heap_blks_read), 0), 2) AS tables_percent,
       round(100.0 * sum(idx_blks_hit) / nullif(sum(idx_blks_hit + idx_blks_read), 0), 2) AS indexes_percent
  FROM pg_statio_user_tables WHERE schemaname = current_schema();

-- name: upkeep_running
-- What has run for longer than a second.
SELECT pid, (now() - query_start)::interval(0)::text AS since, coalesce(wait_event, state) AS waits_for,
       left(regexp_replace(query, '\s+', ' ', 'g'), 60) AS statement
  FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
   AND now() - query_start > interval '1 second' ORDER BY query_start LIMIT 10;

-- name: upkeep_pending
-- What waits to be settled, by account.
SELECT account_id AS account, count(*) AS count, sum(amount) AS sum,
       coalesce(sum(amount) FILTER (WHERE type = 'debit'), 0) AS debit,
       coalesce(sum(amount) FILTER (WHERE type = 'credit'), 0) AS credit
  FROM sub_balances WHERE status = 'PENDING' GROUP BY account_id ORDER BY count(*) DESC, account_id LIMIT 50;
