-- Transfers between accounts, and groups of them that are done wholly or not at all.
--
-- Why: POST /transfers. Locks: ACCESS EXCLUSIVE on journal_batches for an instant, waited for at most two
-- seconds; no row is read or rewritten. Safe while old code runs: yes. It settles and verifies batches of
-- transfers as it does any other; the first process of protocol version 5 opens an epoch that it refuses.

-- A transfer is two entries of one batch, a debit and a credit. By item number: which of the batch's
-- transfers the entry is half of, and the first transfer of its group, which a transfer alone is itself.
-- NULL for a batch without transfers.
SET LOCAL lock_timeout = '2s';
ALTER TABLE journal_batches ADD COLUMN transfer_nos smallint[], ADD COLUMN group_nos smallint[];

CREATE OR REPLACE FUNCTION refuse_batch_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN NEW;
    END IF;
    IF OLD.status = 'PENDING' AND NEW.status = 'SETTLED' AND NEW.settlement_id IS NOT NULL
       AND (NEW.batch_seq, NEW.shard, NEW.epoch, NEW.mode, NEW.attempt_id, NEW.entry_count, NEW.created_at)
         = (OLD.batch_seq, OLD.shard, OLD.epoch, OLD.mode, OLD.attempt_id, OLD.entry_count, OLD.created_at)
       AND (NEW.changes_minor, NEW.request_digest, NEW.refusals, NEW.transfer_nos, NEW.group_nos)
           IS NOT DISTINCT FROM (OLD.changes_minor, OLD.request_digest, OLD.refusals, OLD.transfer_nos, OLD.group_nos) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'change of batch % refused: a batch only settles, and once', OLD.batch_seq
        USING ERRCODE = 'restrict_violation';
END $$;

-- Leave out every item of a group of which one is a duplicate: undo the keys they got and count them off
-- the batch. p_duplicates are left out already. Returns all items that are left out. Part of the SQL
-- transaction of journal_batch_v4.
CREATE FUNCTION drop_groups_v1(
    p_batch_seq bigint, p_group_nos smallint[], p_duplicates integer[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[]
) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_left_out integer[];
BEGIN
    SELECT array_agg(position - 1) INTO v_left_out
      FROM unnest(p_group_nos) WITH ORDINALITY AS g (group_no, position)
     WHERE group_no IN (SELECT p_group_nos[item + 1] FROM unnest(p_duplicates) AS item);
    DELETE FROM idempotency_keys i
     USING unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
     WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = p_batch_seq AND k.item = ANY (v_left_out);
    UPDATE journal_batches SET entry_count = cardinality(p_group_nos) - cardinality(v_left_out) WHERE batch_seq = p_batch_seq;
    RETURN v_left_out;
END $$;

-- Journal what Redis admitted under p_epoch: as journal_batch_v3, which older processes call, and
-- p_transfer_nos, p_group_nos  as in journal_batches, NULL without transfers; an item that is left out takes
--           its whole group along, and is among the duplicate_items with it
CREATE FUNCTION journal_batch_v4(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_extent text,
    p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text,
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[], p_transfer_nos smallint[], p_group_nos smallint[], p_holds text,
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT duplicate_items integer[]
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'redis') THEN
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor,
                                     request_digest, refusals, created_at, transfer_nos, group_nos)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'redis', p_attempt_id, 'PENDING',
                cardinality(p_account_nos), p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp(), p_transfer_nos, p_group_nos)
        ON CONFLICT (attempt_id) DO NOTHING
        RETURNING batch_seq, created_at INTO accepted_seq, accepted_at;
    END IF;
    IF accepted_seq IS NULL THEN
        -- An earlier sending of this attempt may have committed, before a switch that waited for it
        -- or under this epoch.
        SELECT * INTO outcome, accepted_seq, accepted_at, duplicate_items
          FROM journaled_attempt_v2(p_epoch, p_attempt_id, cardinality(p_account_nos));
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_request_digest) THEN
        outcome := 'duplicate';
    ELSE
        IF p_holds IS NULL THEN
            duplicate_items := claim_keys_v2(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
        ELSE
            -- Keys that claim_keys_v2 inserted cannot be undone, for it does so in a SQL transaction inside this one.
            duplicate_items := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
            duplicate_items := duplicate_items || claim_holds_v1(p_holds::jsonb);
        END IF;
        outcome := CASE WHEN p_extent = 'all' AND duplicate_items <> '{}' THEN 'duplicate' ELSE 'journaled' END;
    END IF;
    IF outcome = 'duplicate' THEN
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);
        RETURN;
    END IF;
    IF duplicate_items <> '{}' THEN
        IF p_group_nos IS NOT NULL THEN
            duplicate_items := drop_groups_v1(accepted_seq, p_group_nos, duplicate_items, p_key_items, p_key_scopes, p_key_names);
        END IF;
        UPDATE journal_batches SET changes_minor = kept_changes_v1(p_changes_minor, duplicate_items)
         WHERE batch_seq = accepted_seq;
    END IF;
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, position)
     WHERE i.position - 1 <> ALL (duplicate_items);
    IF p_holds IS NOT NULL THEN
        PERFORM apply_holds_v1(accepted_seq, accepted_at, p_holds::jsonb, p_account_nos, p_changes_minor, p_transaction_ids, duplicate_items);
    END IF;
END $$;

-- Decide and journal in mode postgres, under the locks of the account rows: as decide_batch_v3, which
-- older processes call, and
-- p_transfer_nos, p_group_nos  as in journal_batches, NULL without transfers
-- p_holds   as in journal_batch_v4
-- words     also group_refused: another item of the group was not admitted, and its word says why
CREATE FUNCTION decide_batch_v4(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_is_repeated boolean, p_balance_max bigint,
    p_extent text, p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text, p_positions integer[],
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[], p_transfer_nos smallint[], p_group_nos smallint[], p_holds text,
    OUT outcome text, OUT accepted_seq bigint, OUT accepted_at timestamptz, OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count      integer := cardinality(p_account_nos);
    v_duplicates integer[];
    v_left_out   integer[];
    v_is_all_out boolean;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'postgres') THEN
        -- The place in the journal is drawn under the locks: whatever this decision sees of its
        -- accounts then stands before it in the journal.
        PERFORM FROM accounts a WHERE a.account_no = ANY (p_account_nos) ORDER BY a.account_no FOR NO KEY UPDATE;
        INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count, changes_minor,
                                     request_digest, refusals, created_at, transfer_nos, group_nos)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'postgres', p_attempt_id, 'PENDING',
                v_count, p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp(), p_transfer_nos, p_group_nos)
        ON CONFLICT (attempt_id) DO NOTHING
        RETURNING batch_seq, created_at INTO accepted_seq, accepted_at;
    END IF;
    IF accepted_seq IS NULL THEN
        SELECT j.outcome, j.accepted_seq, j.accepted_at, ARRAY(
                 SELECT CASE WHEN item = ANY (j.duplicate_items) THEN 'undecided' ELSE 'admitted' END
                   FROM generate_series(0, v_count - 1) AS item ORDER BY item)
          INTO outcome, accepted_seq, accepted_at, words
          FROM journaled_attempt_v2(p_epoch, p_attempt_id, v_count) AS j;
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_request_digest) THEN
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);
        outcome := 'duplicate';
        RETURN;
    END IF;
    v_duplicates := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes, p_key_names);
    IF p_holds IS NOT NULL THEN
        v_duplicates := v_duplicates || claim_holds_v1(p_holds::jsonb);
    END IF;
    -- A later statement, so that its snapshot has everything the locks were waited for.
    IF p_group_nos IS NULL THEN
        SELECT d.words, d.availables INTO words, availables
          FROM decide_items_v2(p_balance_max, p_account_nos, p_changes_minor, v_duplicates) AS d;
    ELSE
        SELECT d.words, d.availables INTO words, availables
          FROM decide_groups_v1(p_balance_max, p_account_nos, p_changes_minor, v_duplicates, p_group_nos) AS d;
    END IF;
    SELECT coalesce(array_agg(position - 1), '{}') INTO v_left_out
      FROM unnest(words) WITH ORDINALITY AS w (word, position) WHERE word <> 'admitted';

    -- Everything is decided; nothing may fail from here.
    v_is_all_out := cardinality(v_left_out) = v_count;
    outcome := CASE WHEN p_extent = 'all' AND v_left_out <> '{}' THEN 'refused' ELSE 'journaled' END;
    IF outcome = 'refused' OR v_is_all_out THEN
        -- A tombstone, so that no late copy of an unanswered sending admits what was refused.
        PERFORM undo_batch_v1(accepted_seq, p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, p_is_repeated);
        RETURN;
    END IF;
    IF v_left_out <> '{}' THEN
        DELETE FROM idempotency_keys i
         USING unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)
         WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = accepted_seq AND k.item = ANY (v_left_out);
        UPDATE journal_batches
           SET entry_count = v_count - cardinality(v_left_out), changes_minor = kept_changes_v1(p_changes_minor, v_left_out),
               refusals = p_refusals::jsonb || (
                   SELECT jsonb_agg(jsonb_build_array(p_positions[item + 1], words[item + 1], availables[item + 1]::text) ORDER BY item)
                     FROM unnest(v_left_out) AS item)
         WHERE batch_seq = accepted_seq;
    END IF;
    INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no,
                                 transaction_id, reference, metadata)
    SELECT i.account_no, accepted_seq, accepted_at, i.change_minor, i.position - 1,
           i.transaction_id, i.reference, i.metadata::jsonb
      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references, p_metadata)
           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference, metadata, position)
     WHERE words[i.position] = 'admitted';
    IF p_holds IS NOT NULL THEN
        PERFORM apply_holds_v1(accepted_seq, accepted_at, p_holds::jsonb, p_account_nos, p_changes_minor, p_transaction_ids, v_left_out);
    END IF;
END $$;

-- Decide groups in order, each wholly or not at all, as decide_items_v2 decides items; a group's items
-- stand together and its debits first, so that its own credits fund none of them.
CREATE FUNCTION decide_groups_v1(
    p_balance_max bigint, p_account_nos bigint[], p_changes_minor bigint[], p_duplicates integer[], p_group_nos smallint[],
    OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_nos        bigint[];
    v_stops      text[];
    v_available  numeric[];
    v_incoming   numeric[];
    v_places     integer[];
    v_available_before numeric[];
    v_incoming_before  numeric[];
    v_count      integer := cardinality(p_account_nos);
    v_first      integer := 1;
    v_repeated   smallint[] := ARRAY(SELECT DISTINCT p_group_nos[item + 1] FROM unnest(p_duplicates) AS item);
    v_change     numeric;
    v_place      integer;
    v_word       text;
BEGIN
    SELECT array_agg(CASE WHEN position - 1 = ANY (p_duplicates) THEN 'duplicate' ELSE 'group_refused' END ORDER BY position)
      INTO words FROM generate_series(1, v_count) AS position;
    availables := array_fill(NULL::numeric, ARRAY[v_count]);
    SELECT array_agg(a.account_no ORDER BY a.account_no), array_agg(account_stop_v1(a.frozen, a.closed) ORDER BY a.account_no),
           array_agg(a.settled_minor + p.credit_minor - p.debit_minor + a.credit_limit_minor ORDER BY a.account_no),
           array_agg(0::numeric ORDER BY a.account_no)
      INTO v_nos, v_stops, v_available, v_incoming
      FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
     WHERE a.account_no = ANY (p_account_nos);
    SELECT array_agg(n.place ORDER BY i.position) INTO v_places
      FROM unnest(p_account_nos) WITH ORDINALITY AS i (account_no, position)
      LEFT JOIN unnest(v_nos) WITH ORDINALITY AS n (account_no, place) USING (account_no);

    FOR v_item IN 1 .. v_count LOOP
        IF p_group_nos[v_item] < p_group_nos[v_item - 1] THEN
            RAISE EXCEPTION 'the items of group % do not stand together', p_group_nos[v_item];
        END IF;
        IF p_group_nos[v_item] IS DISTINCT FROM p_group_nos[v_item - 1] THEN
            v_first := v_item;
            v_available_before := v_available;
            v_incoming_before := v_incoming;
            -- Whatever the figures are: it was done before, or its name is somebody else's.
            v_word := CASE WHEN p_group_nos[v_item] = ANY (v_repeated) THEN 'duplicate' ELSE 'admitted' END;
        END IF;
        CONTINUE WHEN v_word <> 'admitted';
        v_place := v_places[v_item];
        v_change := p_changes_minor[v_item];
        v_word := CASE
            WHEN v_place IS NULL THEN 'unknown_account'
            WHEN v_stops[v_place] = 'closed' THEN 'account_closed'
            WHEN v_stops[v_place] IN ('all', CASE WHEN v_change < 0 THEN 'debit' ELSE 'credit' END) THEN 'account_frozen'
            WHEN v_change < 0 AND v_available[v_place] + v_incoming[v_place] + v_change < 0 THEN 'insufficient_available'
            WHEN v_change < 0 AND v_available[v_place] + v_change < 0 THEN 'credit_in_flight'
            WHEN v_change > 0 AND v_available[v_place] + v_incoming[v_place] + v_change > p_balance_max THEN 'balance_limit_exceeded'
            ELSE 'admitted' END;
        words[v_item] := v_word;
        IF v_word = 'admitted' THEN
            v_available[v_place] := v_available[v_place] + least(v_change, 0);
            v_incoming[v_place] := v_incoming[v_place] + greatest(v_change, 0);
        ELSE
            availables[v_item] := CASE WHEN v_word <> 'unknown_account' THEN v_available[v_place] END;
            FOR v_other IN v_first .. v_item - 1 LOOP
                words[v_other] := 'group_refused';
            END LOOP;
            v_available := v_available_before;
            v_incoming := v_incoming_before;
        END IF;
    END LOOP;
END $$;

-- The entries of the group that an entry belongs to, with their accounts; none where it is no transfer's.
CREATE FUNCTION group_entries_v1(p_batch_seq bigint, p_item_no smallint)
RETURNS TABLE (
    batch_seq bigint, item_no smallint, created_at timestamptz, change_minor bigint, transaction_id uuid, reference text,
    metadata text, status text, mode text, attempt_id bigint, updated_at timestamptz,
    account_no bigint, account_id varchar, currency char, exponent smallint, transfer_no smallint, group_no smallint
) LANGUAGE sql STABLE AS $$
    SELECT e.batch_seq, e.item_no, e.created_at, e.change_minor, e.transaction_id, e.reference, e.metadata::text,
           b.status, b.mode, b.attempt_id, coalesce(b.settled_at, e.created_at),
           a.account_no, a.account_id, a.currency, a.exponent, b.transfer_nos[e.item_no + 1], b.group_nos[e.item_no + 1]
      FROM journal_batches b
      JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
                            AND e.item_no = ANY (ARRAY(SELECT (position - 1)::smallint
                                                         FROM unnest(array_positions(b.group_nos, b.group_nos[p_item_no + 1])) AS position))
      JOIN accounts a ON a.account_no = e.account_no
     WHERE b.batch_seq = p_batch_seq AND b.group_nos IS NOT NULL
$$;

-- The transfer that an entry is half of: its id, which is that of its debit, and the other account. A
-- function of its own plan, for inside another one its joins could read a batch for each entry of it.
CREATE FUNCTION transfer_of_v1(p_batch_seq bigint, p_created_at timestamptz, p_item_no smallint, p_transfer_nos smallint[])
RETURNS TABLE (transfer_id uuid, other_account_id varchar) LANGUAGE plpgsql STABLE ROWS 1 AS $$
DECLARE
    v_transfer_no smallint := p_transfer_nos[p_item_no + 1];
    v_other       smallint;
BEGIN
    IF v_transfer_no IS NULL THEN
        RETURN;
    END IF;
    SELECT position - 1 INTO v_other
      FROM unnest(array_positions(p_transfer_nos, v_transfer_no)) AS position WHERE position - 1 <> p_item_no;
    RETURN QUERY
    SELECT CASE WHEN o.change_minor < 0
                THEN coalesce(o.transaction_id, assigned_transaction_id_v1(p_created_at, p_batch_seq, v_other))
                ELSE coalesce(s.transaction_id, assigned_transaction_id_v1(p_created_at, p_batch_seq, p_item_no)) END,
           a.account_id
      FROM journal_entries o
      JOIN journal_entries s ON s.batch_seq = p_batch_seq AND s.item_no = p_item_no AND s.created_at = p_created_at
      JOIN accounts a ON a.account_no = o.account_no
     WHERE o.batch_seq = p_batch_seq AND o.item_no = v_other AND o.created_at = p_created_at;
END $$;
