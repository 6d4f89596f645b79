-- Reading history: balances as of an instant, statements, search, and months that are detached.
--
-- Why: none of them may read an account's whole history to answer. Locks: ACCESS EXCLUSIVE on journal_entries
-- and its partitions, waited for at most two seconds and then held while the index by account is built anew:
-- nobody reads or journals meanwhile, about a second for each million rows. Where that is too long, build the
-- index of each partition before: CREATE INDEX CONCURRENTLY ON <partition> (account_no, created_at), and the
-- same for the other two; this migration then takes those and builds none. Further ACCESS EXCLUSIVE on
-- settlements, operator_actions for an instant. Safe while old code runs: yes. settle_chunk_v2 does what it did.
SET LOCAL lock_timeout = '2s';
LOCK TABLE journal_entries, settlements, operator_actions IN ACCESS EXCLUSIVE MODE;

-- By account in the order of booking. As wide as the one by batch, and growing at the same places; what looked
-- an account's pending entries up by batch looks them up by the time of the oldest pending batch as well.
CREATE INDEX journal_entries_account_at ON journal_entries (account_no, created_at);
DROP INDEX journal_entries_account;

-- What was backdated, and what has a reference: nothing for an entry without.
CREATE INDEX journal_entries_effective ON journal_entries (account_no, created_at, effective_at) WHERE effective_at IS NOT NULL;
CREATE INDEX journal_entries_reference ON journal_entries (reference, created_at) WHERE reference IS NOT NULL;

-- Every entry with created_at below complete_to is folded by this settlement or an earlier one; NULL where that
-- was not recorded.
ALTER TABLE settlements ADD COLUMN complete_to timestamptz;

-- Months that were detached: the journal has nothing from before `before` any more. History is answered from
-- `available_from` on: a settlement before it has folded all that is gone. Settlements up to last_settlement_id
-- folded nothing that is still here.
CREATE TABLE journal_detachments (
    before             timestamptz PRIMARY KEY,
    available_from     timestamptz NOT NULL,
    last_settlement_id bigint      NOT NULL,
    tables             text[]      NOT NULL,
    detached_at        timestamptz NOT NULL
);

-- What later settlements folded of detached entries, so that verification can add it to what is still here.
CREATE TABLE detached_sums (
    settlement_id bigint        NOT NULL,
    account_no    bigint        NOT NULL,
    before        timestamptz   NOT NULL REFERENCES journal_detachments,
    entry_count   bigint        NOT NULL,
    debit_minor   numeric(38,0) NOT NULL,
    credit_minor  numeric(38,0) NOT NULL,
    PRIMARY KEY (settlement_id, account_no, before)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_detachments FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON detached_sums FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON journal_detachments EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON detached_sums EXECUTE FUNCTION refuse_change();

ALTER TABLE operator_actions
    DROP CONSTRAINT operator_actions_action,
    ADD CONSTRAINT operator_actions_action
        CHECK (action IN ('force_redis', 'force_postgres', 'automatic', 'read_only', 'drain', 'resume', 'detach')) NOT VALID;

-- How far everything that was journaled is visible to statements that begin after this one, on all shards; NULL
-- where this role may not know.
CREATE FUNCTION complete_before_v1() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT min(journal_watermark_v1(s.shard)) FROM ledger_shards s);
EXCEPTION WHEN insufficient_privilege THEN
    -- Settlement goes on without it; whoever reads history is told.
    RETURN NULL;
END $$;

-- Fold pending batches into the settled balances as before, and write down how far all that was accepted is
-- folded. settled_at never goes back, and is never before what was folded, whatever the clock does.
CREATE OR REPLACE FUNCTION settle_chunk_v2(
    p_batches_max integer, p_entries_max bigint,
    OUT outcome text, OUT settlement bigint, OUT batches integer, OUT entries bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_started  timestamptz := clock_timestamp();
    v_chosen   bigint[];
    v_first    timestamptz;
    v_last     timestamptz;
    v_totals   jsonb;
    v_accounts integer;
    v_is_shared boolean;
    v_last_seq  bigint;
    v_complete  timestamptz;
    v_before    settlements;
    v_settled   timestamptz;
BEGIN
    IF NOT pg_try_advisory_xact_lock(fence_class_v1() + 1, 0) THEN
        outcome := 'busy';
        RETURN;
    END IF;
    -- Where PostgreSQL decides, decisions wait for the rows that a chunk holds, so it holds fewer, and
    -- takes them in order.
    v_is_shared := (SELECT bool_or(mode = 'postgres') FROM ledger_shards);
    IF v_is_shared THEN
        p_entries_max := least(p_entries_max, 20000);
    END IF;
    -- Before the statement that chooses: that one sees every batch from before this time.
    v_complete := complete_before_v1();
    SELECT array_agg(b.batch_seq), min(b.created_at), max(b.created_at), count(*), max(b.batch_seq)
      INTO v_chosen, v_first, v_last, batches, v_last_seq
      FROM (SELECT batch_seq, created_at,
                   sum(entry_count) OVER (ORDER BY batch_seq) - entry_count AS entries_before
              FROM (SELECT batch_seq, created_at, entry_count FROM journal_batches
                     WHERE status = 'PENDING' ORDER BY batch_seq LIMIT p_batches_max) AS p) AS b
     WHERE b.entries_before < p_entries_max;
    IF batches = 0 THEN
        outcome := 'empty';
        RETURN;
    END IF;
    IF v_is_shared THEN
        PERFORM FROM accounts a
          WHERE a.kind = 'external' OR a.account_no IN (
                SELECT account_no FROM journal_entries WHERE batch_seq = ANY (v_chosen) AND created_at BETWEEN v_first AND v_last)
          ORDER BY a.account_no FOR NO KEY UPDATE;
    END IF;
    SELECT * INTO v_before FROM settlements s ORDER BY s.settlement_id DESC LIMIT 1;
    IF v_complete IS NOT NULL THEN
        v_complete := least(v_complete, (
            SELECT min(b.created_at) FROM journal_batches b WHERE b.status = 'PENDING' AND b.batch_seq > v_last_seq));
    END IF;
    settlement := nextval(pg_get_serial_sequence('settlements', 'settlement_id'));

    WITH customers AS MATERIALIZED (
        SELECT e.account_no, count(*) AS entry_count,
               sum(CASE WHEN e.change_minor < 0 THEN -e.change_minor ELSE 0 END) AS debit_minor,
               sum(CASE WHEN e.change_minor > 0 THEN e.change_minor ELSE 0 END) AS credit_minor
          FROM journal_entries e
         WHERE e.batch_seq = ANY (v_chosen) AND e.created_at BETWEEN v_first AND v_last
         GROUP BY e.account_no
    ), currencies AS MATERIALIZED (
        SELECT a.currency, count(*) AS account_count, sum(c.entry_count) AS entry_count,
               sum(c.debit_minor) AS debit_minor, sum(c.credit_minor) AS credit_minor
          FROM customers c JOIN accounts a USING (account_no) GROUP BY a.currency
    ), sums AS (
        SELECT account_no, entry_count, debit_minor, credit_minor FROM customers
        UNION ALL
        SELECT x.account_no, c.entry_count, c.credit_minor, c.debit_minor
          FROM currencies c JOIN accounts x ON x.currency = c.currency AND x.kind = 'external'
    ), settled AS (
        UPDATE accounts a
           SET settled_minor = a.settled_minor + s.credit_minor - s.debit_minor, version = a.version + s.entry_count,
               last_settlement_at = v_started, updated_at = v_started
          FROM sums s WHERE a.account_no = s.account_no
        RETURNING a.account_no, a.version, s.entry_count, s.debit_minor, s.credit_minor, a.settled_minor
    ), lines AS (
        INSERT INTO settlement_lines (account_no, version_after, settlement_id, entry_count,
                                      debit_minor, credit_minor, settled_after_minor)
        SELECT account_no, version, settlement, entry_count, debit_minor, credit_minor, settled_minor FROM settled
    )
    SELECT coalesce(sum(entry_count), 0), coalesce(sum(account_count), 0),
           coalesce(jsonb_object_agg(currency, jsonb_build_object('debit_minor', debit_minor, 'credit_minor', credit_minor)), '{}')
      INTO entries, v_accounts, v_totals FROM currencies;

    v_settled := greatest(clock_timestamp(), v_last, v_before.settled_at);
    INSERT INTO settlements (settlement_id, batch_count, entry_count, account_count, totals, duration_us, settled_at, complete_to)
    OVERRIDING SYSTEM VALUE
    VALUES (settlement, batches, entries, v_accounts, v_totals,
            extract(microseconds FROM clock_timestamp() - v_started), v_settled, v_complete);
    UPDATE journal_batches SET status = 'SETTLED', settled_at = v_settled, settlement_id = settlement
     WHERE batch_seq = ANY (v_chosen);
    outcome := 'settled';
END $$;


-- The latest settlement line of an account up to a settlement, by halving: its lines' versions and settlements
-- rise together, so it takes as many steps as the version has bits, without an index of its own.
CREATE FUNCTION settled_by_v1(p_account_no bigint, p_settlement_id bigint) RETURNS numeric
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_low     bigint := 0;
    v_high    bigint;
    v_middle  bigint;
    v_settled numeric := 0;
    v_line    record;
BEGIN
    SELECT l.version_after, l.settlement_id, l.settled_after_minor INTO v_line
      FROM settlement_lines l WHERE l.account_no = p_account_no ORDER BY l.version_after DESC LIMIT 1;
    IF v_line.settlement_id <= p_settlement_id THEN
        RETURN v_line.settled_after_minor;
    END IF;
    -- The line that is sought has its version above v_low, whose balance is v_settled, and up to v_high, or is
    -- v_low's own.
    v_high := coalesce(v_line.version_after, 0);
    WHILE v_low < v_high LOOP
        v_middle := v_low + (v_high - v_low) / 2;
        SELECT l.version_after, l.settlement_id, l.settled_after_minor INTO v_line
          FROM settlement_lines l
         WHERE l.account_no = p_account_no AND l.version_after > v_middle AND l.version_after <= v_high
         ORDER BY l.version_after LIMIT 1;
        IF v_line.settlement_id <= p_settlement_id THEN
            v_low := v_line.version_after;
            v_settled := v_line.settled_after_minor;
        ELSE
            v_high := v_middle;
        END IF;
    END LOOP;
    RETURN v_settled;
END $$;

-- From when entries may be missing in a settlement and all before it: the exact slower way, for settlements that
-- did not record it. Reads the batches up to the first one that did.
CREATE FUNCTION complete_to_v1(p_settlement_id bigint) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_next record;
BEGIN
    SELECT s.settlement_id, s.complete_to INTO v_next
      FROM settlements s WHERE s.settlement_id > p_settlement_id AND s.complete_to IS NOT NULL
     ORDER BY s.settlement_id LIMIT 1;
    RETURN least(
        coalesce(v_next.complete_to, (SELECT min(b.created_at) FROM journal_batches b WHERE b.status = 'PENDING')),
        (SELECT min(b.created_at) FROM journal_batches b
          WHERE b.settlement_id > p_settlement_id AND (v_next.settlement_id IS NULL OR b.settlement_id <= v_next.settlement_id)),
        'infinity');
END $$;

-- What an account had of all that was booked before an instant, as far as it is visible to this statement;
-- nothing where the months that this would have to be read from are detached.
CREATE FUNCTION booked_before_v1(p_account_no bigint, p_before timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET enable_seqscan = off AS $$
DECLARE
    v_from    timestamptz := '-infinity';
    v_settled numeric := 0;
    v_last    record;
BEGIN
    SELECT s.settlement_id, s.complete_to INTO v_last
      FROM settlements s WHERE s.settled_at < p_before ORDER BY s.settled_at DESC, s.settlement_id DESC LIMIT 1;
    IF v_last.settlement_id IS NOT NULL THEN
        v_settled := settled_by_v1(p_account_no, v_last.settlement_id);
        v_from := coalesce(v_last.complete_to, complete_to_v1(v_last.settlement_id));
    END IF;
    IF v_from < (SELECT max(d.before) FROM journal_detachments d) THEN
        RETURN NULL;
    END IF;
    RETURN v_settled + (
        SELECT coalesce(sum(p.change_minor), 0)
          FROM (SELECT e.batch_seq, sum(e.change_minor) AS change_minor
                  FROM journal_entries e
                 WHERE e.account_no = p_account_no AND e.created_at >= v_from AND e.created_at < p_before
                 GROUP BY e.batch_seq) AS p
         CROSS JOIN LATERAL (
               -- Each by itself: a join could read all batches.
               SELECT FROM journal_batches b
                WHERE b.batch_seq = p.batch_seq
                  AND (v_last.settlement_id IS NULL OR b.settlement_id IS NULL OR b.settlement_id > v_last.settlement_id)
               OFFSET 0) AS unfolded);
END $$;

-- What a list of entries shows of one.
CREATE TYPE listed_entry AS (
    batch_seq bigint, item_no smallint, created_at timestamptz, change_minor bigint, transaction_id uuid, reference text,
    metadata text, effective_at timestamptz, reverses uuid, status text, mode text, attempt_id bigint, updated_at timestamptz,
    account_no bigint, account_id text, currency text, exponent smallint, transfer_id uuid, other_account_id text
);

-- An account's entries after a place and before an instant, in the order they were booked. Its settings keep the
-- planner to the index in its order: what it knows of how many entries one of many accounts has may be far off.
CREATE FUNCTION statement_rows_v1(
    p_account_no bigint, p_after_at timestamptz, p_after_batch_seq bigint, p_after_item_no smallint, p_before timestamptz, p_limit bigint
) RETURNS SETOF listed_entry
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    RETURN QUERY
    SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id, e.reference, e.metadata::text, e.effective_at,
           e.reverses, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at), a.account_no, a.account_id::text,
           a.currency::text, a.exponent, t.transfer_id, t.other_account_id::text
      FROM (SELECT * FROM journal_entries
             WHERE account_no = p_account_no AND created_at >= p_after_at AND created_at < p_before
               AND (created_at, batch_seq, item_no) > (p_after_at, p_after_batch_seq, p_after_item_no)
             ORDER BY created_at, batch_seq, item_no LIMIT p_limit) AS e
     CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = e.batch_seq OFFSET 0) AS b
     CROSS JOIN LATERAL (SELECT * FROM accounts a WHERE a.account_no = e.account_no OFFSET 0) AS a
      LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t ON true
     ORDER BY e.created_at, e.batch_seq, e.item_no;
END $$;

-- Entries before a place that are as wanted, the newest first: those with a reference or, without one, of an
-- account. Looks at p_looked_at_max of them at most, and at no more than it takes to find p_limit.
CREATE FUNCTION search_v1(
    p_account_no bigint, p_reference text, p_from timestamptz, p_before_at timestamptz, p_before_batch_seq bigint, p_before_item_no smallint,
    p_status text, p_direction text, p_amount_min numeric, p_amount_max numeric, p_metadata text, p_limit bigint, p_looked_at_max bigint
) RETURNS SETOF listed_entry
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id, e.reference, e.metadata::text, e.effective_at,
               e.reverses, b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at), a.account_no, a.account_id::text,
               a.currency::text, a.exponent, t.transfer_id, t.other_account_id::text
          FROM (SELECT * FROM journal_entries
                 WHERE %1$s AND created_at >= $3 AND created_at <= $4 AND (created_at, batch_seq, item_no) < ($4, $5, $6)
                 ORDER BY created_at DESC, batch_seq DESC, item_no DESC LIMIT $13) AS e
         CROSS JOIN LATERAL (SELECT * FROM journal_batches b WHERE b.batch_seq = e.batch_seq OFFSET 0) AS b
         CROSS JOIN LATERAL (SELECT * FROM accounts a WHERE a.account_no = e.account_no OFFSET 0) AS a
          LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t ON true
         WHERE ($1 IS NULL OR e.account_no = $1)
           AND ($7 IS NULL OR b.status = $7) AND ($8 IS NULL OR (e.change_minor > 0) = ($8 = 'credit'))
           AND ($9 IS NULL OR abs(e.change_minor) >= $9 * 10::numeric ^ a.exponent)
           AND ($10 IS NULL OR abs(e.change_minor) <= $10 * 10::numeric ^ a.exponent)
           AND ($11 IS NULL OR e.metadata @> $11::jsonb)
         ORDER BY e.created_at DESC, e.batch_seq DESC, e.item_no DESC LIMIT $12 $sql$,
        CASE WHEN p_reference IS NULL THEN 'account_no = $1' ELSE 'reference = $2' END)
    USING p_account_no, p_reference, p_from, p_before_at, p_before_batch_seq, p_before_item_no,
          p_status, p_direction, p_amount_min, p_amount_max, p_metadata, p_limit, p_looked_at_max;
END $$;

-- Where a search ends that looked at as many as it may; nothing where there are fewer, or unless p_is_short: it
-- has found a page.
CREATE FUNCTION search_end_v1(
    p_account_no bigint, p_reference text, p_from timestamptz, p_before_at timestamptz, p_before_batch_seq bigint, p_before_item_no smallint,
    p_looked_at_max bigint, p_is_short boolean, OUT ended_at timestamptz, OUT ended_batch_seq bigint, OUT ended_item_no smallint
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    IF NOT p_is_short THEN
        RETURN;
    END IF;
    EXECUTE format($sql$
        SELECT created_at, batch_seq, item_no FROM journal_entries
         WHERE %1$s AND created_at >= $3 AND created_at <= $4 AND (created_at, batch_seq, item_no) < ($4, $5, $6)
         ORDER BY created_at DESC, batch_seq DESC, item_no DESC OFFSET $7 - 1 LIMIT 1 $sql$,
        CASE WHEN p_reference IS NULL THEN 'account_no = $1' ELSE 'reference = $2' END)
    INTO ended_at, ended_batch_seq, ended_item_no
    USING p_account_no, p_reference, p_from, p_before_at, p_before_batch_seq, p_before_item_no, p_looked_at_max;
END $$;

-- Detach the journal's months before the beginning of one. The tables stay, as append-only as they were.
--
-- outcome   detached       tables say which
--           nothing        there is none that is attached still
--           pending        something of them is not settled
--           not_final      something of them may still be on its way
--           unsettled      no settlement has recorded that all of them is folded
--           in_default     something of them is in the default partition, which is never detached
CREATE FUNCTION detach_journal_v1(p_shard smallint, p_before timestamptz, p_actor text, p_reason text, OUT outcome text, OUT tables text[])
LANGUAGE plpgsql VOLATILE SET lock_timeout = '2s' AS $$
DECLARE
    v_known  timestamptz := coalesce((SELECT max(d.before) FROM journal_detachments d), '-infinity');
    v_first  record;
    v_last   bigint;
    v_table  text;
    v_complete timestamptz;
BEGIN
    IF p_before <> date_trunc('month', p_before, 'UTC') THEN
        RAISE EXCEPTION '% is not the beginning of a month in UTC', p_before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- No settlement meanwhile.
    PERFORM pg_advisory_xact_lock(fence_class_v1() + 1, 0);
    v_complete := complete_before_v1();
    SELECT array_agg(c.relname::text ORDER BY c.relname) INTO tables
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'journal_entries'::regclass AND c.relname ~ '^journal_entries_y[0-9]{4}m[0-9]{2}$'
       AND to_date(right(c.relname::text, 7), 'YYYY"m"MM')::timestamp AT TIME ZONE 'UTC' < p_before;
    SELECT s.settlement_id, s.settled_at INTO v_first
      FROM settlements s WHERE s.complete_to >= p_before ORDER BY s.settlement_id LIMIT 1;
    v_last := coalesce((SELECT s.settlement_id FROM settlements s WHERE s.settled_at < p_before
                         ORDER BY s.settled_at DESC, s.settlement_id DESC LIMIT 1), 0);
    outcome := CASE
        WHEN p_before <= v_known OR tables IS NULL THEN 'nothing'
        WHEN v_complete IS NULL OR v_complete < p_before THEN 'not_final'
        WHEN EXISTS (SELECT FROM journal_batches b WHERE b.status = 'PENDING' AND b.created_at < p_before) THEN 'pending'
        WHEN v_first.settlement_id IS NULL THEN 'unsettled'
        WHEN EXISTS (SELECT FROM journal_entries_default e WHERE e.created_at < p_before) THEN 'in_default'
        ELSE 'detached' END;
    IF outcome <> 'detached' THEN
        tables := '{}';
        RETURN;
    END IF;

    -- Everything is decided; nothing but a lock that is not had in time may stop it from here.
    INSERT INTO journal_detachments (before, available_from, last_settlement_id, tables, detached_at)
    VALUES (p_before, v_first.settled_at + interval '1 microsecond', v_last, detach_journal_v1.tables, clock_timestamp());
    INSERT INTO detached_sums (settlement_id, account_no, before, entry_count, debit_minor, credit_minor)
    SELECT b.settlement_id, e.account_no, p_before, count(*),
           coalesce(sum(-e.change_minor) FILTER (WHERE e.change_minor < 0), 0),
           coalesce(sum(e.change_minor) FILTER (WHERE e.change_minor > 0), 0)
      FROM journal_batches b JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
     WHERE b.settlement_id > v_last AND b.settlement_id <= v_first.settlement_id
       AND b.created_at < p_before AND b.created_at >= v_known
     GROUP BY b.settlement_id, e.account_no;
    FOREACH v_table IN ARRAY tables LOOP
        EXECUTE format('ALTER TABLE journal_entries DETACH PARTITION %I', v_table);
        -- Its triggers were the journal's.
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', v_table);
        EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', v_table);
    END LOOP;
    INSERT INTO operator_actions (action, actor, reason, database_role, epoch_before, epoch_after, acted_at)
    SELECT 'detach', p_actor, p_reason, session_user, s.epoch, s.epoch, clock_timestamp()
      FROM ledger_shards s WHERE s.shard = p_shard;
END $$;
