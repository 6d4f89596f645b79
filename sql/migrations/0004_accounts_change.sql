-- Accounts that can be changed, frozen and closed.
--
-- Why: PATCH and the list of accounts. Locks: ACCESS EXCLUSIVE on accounts for an instant; no row is
-- read or rewritten. It is waited for at most two seconds, for everybody else waits behind: run it again
-- where a long statement has the table. Safe while old code runs: yes. Nothing is changed before a process of protocol
-- version 4 has opened an epoch, and in that older ones neither admit nor decide.

-- frozen and closed say what the account takes no more. The constraints are not checked against the
-- rows that are there: none is frozen, and the one that is replaced was stricter.
--
-- A limit is lowered by what an account has, settled and pending together. Entries that were accepted
-- under the higher limit may be pending yet, debits before the credits that made up for them, and are
-- folded one chunk after the other: earlier_limit_minor is how far below zero that may take the settled
-- balance. Each change sets it anew.
SET LOCAL lock_timeout = '2s';
ALTER TABLE accounts
    ADD COLUMN frozen text NOT NULL DEFAULT 'none',
    ADD COLUMN closed boolean NOT NULL DEFAULT false,
    ADD COLUMN earlier_limit_minor bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT accounts_frozen CHECK (frozen IN ('none', 'debit', 'credit', 'all')) NOT VALID,
    DROP CONSTRAINT accounts_overdrawn,
    ADD CONSTRAINT accounts_overdrawn
        CHECK (kind = 'external' OR settled_minor >= -greatest(credit_limit_minor, earlier_limit_minor)) NOT VALID;

-- Every attempt to change an account that PostgreSQL decided, what came of it, and the account before
-- and after. A void row is a tombstone: that attempt can change nothing any more.
CREATE TABLE account_changes (
    attempt_id        bigint        PRIMARY KEY,
    outcome           text          NOT NULL CONSTRAINT account_changes_outcome
                                    CHECK (outcome IN ('changed', 'unchanged', 'void', 'differs', 'account_not_found',
                                                       'precondition_failed', 'account_closed', 'account_not_empty',
                                                       'limit_in_use', 'balance_limit_exceeded')),
    account_no        bigint        REFERENCES accounts,
    mode              text,
    before            jsonb,
    after             jsonb,
    balance_minor     numeric(38,0),
    changed_at        timestamptz   NOT NULL
);

CREATE INDEX account_changes_account ON account_changes (account_no, changed_at);

-- An attempt's row is fixed, except by the SQL transaction that inserts it.
CREATE FUNCTION refuse_later_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on % refused: it is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE ON account_changes FOR EACH ROW EXECUTE FUNCTION refuse_later_change();
CREATE TRIGGER no_delete BEFORE DELETE ON account_changes FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON account_changes EXECUTE FUNCTION refuse_change();

-- What an account takes no more, in one word: nothing (''), debit, credit, all, or closed.
CREATE FUNCTION account_stop_v1(p_frozen text, p_closed boolean) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_closed THEN 'closed' WHEN p_frozen = 'none' THEN '' ELSE p_frozen END;

-- What a change can change of an account, as it is written down.
CREATE FUNCTION account_rules_v1(p_account accounts) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_build_object('credit_limit_minor', p_account.credit_limit_minor, 'frozen', p_account.frozen,
                          'closed', p_account.closed, 'metadata', p_account.metadata);

-- Change an account, or find why not; NULL leaves a thing as it is.
--
-- p_mode            who decides in p_epoch. In mode redis the caller has stopped the account there and
--                   waited until nothing is in flight on it, and gives what it then has available
-- p_config_versions those it may have, NULL for any
-- outcome   changed, unchanged
--           precondition_failed, account_closed, account_not_empty, limit_in_use,
--           balance_limit_exceeded, account_not_found   refused
--           differs    Redis has something else available: it lost something; nothing changed
--           void       the attempt has a tombstone; nothing changed and never will by it
--           busy       others have had the account's row for too long; nothing was decided
--           fenced     another epoch rules, or one that older processes decide in; this attempt has
--                      changed nothing and never will under this epoch
-- balance_minor, limit_minor  the figures of the decision, the limit as it was before
-- Run again with the same attempt it returns what the first run did, whoever rules by then: refusals
-- are written down as well, so that no late copy changes an account that is in use again.
CREATE FUNCTION change_account_v1(
    p_shard smallint, p_epoch bigint, p_word text, p_mode text, p_attempt_id bigint, p_account_id text,
    p_config_versions bigint[], p_credit_limit_minor bigint, p_frozen text, p_metadata text, p_closed boolean,
    p_available_minor numeric, p_balance_max bigint,
    OUT outcome text, OUT balance_minor numeric, OUT limit_minor bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_before   accounts;
    v_after    accounts;
    v_settled  numeric;
    v_debit    numeric;
    v_is_first boolean := false;
BEGIN
    PERFORM enter_fence_v1(p_shard);
    IF epoch_rules_v1(p_shard, p_epoch, p_word, p_mode)
       AND (SELECT s.protocol_version >= 4 FROM ledger_shards s WHERE s.shard = p_shard) THEN
        -- Void unless this SQL transaction says something else of it before it commits.
        INSERT INTO account_changes (attempt_id, outcome, mode, changed_at)
        VALUES (p_attempt_id, 'void', p_mode, clock_timestamp())
        ON CONFLICT (attempt_id) DO NOTHING;
        v_is_first := FOUND;
    END IF;
    IF NOT v_is_first THEN
        SELECT c.outcome, c.balance_minor, (c.before ->> 'credit_limit_minor')::bigint
          INTO outcome, balance_minor, limit_minor
          FROM account_changes c WHERE c.attempt_id = p_attempt_id;
        outcome := coalesce(outcome, 'fenced');
        RETURN;
    END IF;

    BEGIN
        -- Who waits here holds the fence: a settlement may have the row for long.
        PERFORM set_config('lock_timeout', '100ms', true);
        SELECT * INTO v_before FROM accounts a
         WHERE a.account_id = p_account_id AND a.kind = 'customer' FOR NO KEY UPDATE;
    EXCEPTION WHEN lock_not_available THEN
        DELETE FROM account_changes c WHERE c.attempt_id = p_attempt_id;
        outcome := 'busy';
        RETURN;
    END;
    -- A later statement, so that its snapshot has everything the lock was waited for.
    SELECT a.settled_minor, p.debit_minor, a.settled_minor + p.credit_minor - p.debit_minor
      INTO v_settled, v_debit, balance_minor
      FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
     WHERE a.account_no = v_before.account_no;
    limit_minor := v_before.credit_limit_minor;
    v_after := v_before;
    v_after.credit_limit_minor := coalesce(p_credit_limit_minor, v_before.credit_limit_minor);
    v_after.frozen := coalesce(p_frozen, v_before.frozen);
    v_after.metadata := coalesce(p_metadata::jsonb, v_before.metadata);
    v_after.closed := v_before.closed OR p_closed;
    outcome := CASE
        WHEN v_before.account_no IS NULL THEN 'account_not_found'
        WHEN p_available_minor <> balance_minor + limit_minor THEN 'differs'
        WHEN v_before.config_version <> ALL (p_config_versions) THEN 'precondition_failed'
        WHEN account_rules_v1(v_after) = account_rules_v1(v_before) THEN 'unchanged'
        WHEN v_before.closed THEN 'account_closed'
        WHEN v_after.closed AND balance_minor <> 0 THEN 'account_not_empty'
        WHEN v_after.credit_limit_minor < limit_minor AND balance_minor + v_after.credit_limit_minor < 0 THEN 'limit_in_use'
        WHEN v_after.credit_limit_minor > limit_minor
             AND balance_minor + v_after.credit_limit_minor > p_balance_max THEN 'balance_limit_exceeded'
        ELSE 'changed' END;

    -- Everything is decided; nothing may fail from here.
    IF outcome = 'changed' THEN
        UPDATE accounts a
           SET credit_limit_minor = v_after.credit_limit_minor, frozen = v_after.frozen,
               metadata = v_after.metadata, closed = v_after.closed,
               earlier_limit_minor = greatest(0, least(v_debit - v_settled, greatest(limit_minor, v_before.earlier_limit_minor))),
               config_version = a.config_version + 1, updated_at = clock_timestamp()
         WHERE a.account_no = v_before.account_no;
    END IF;
    UPDATE account_changes c
       SET outcome = change_account_v1.outcome, account_no = v_before.account_no,
           balance_minor = change_account_v1.balance_minor,
           before = account_rules_v1(v_before), after = account_rules_v1(v_after)
     WHERE c.attempt_id = p_attempt_id;
END $$;

-- Put a tombstone on an attempt to change an account unless PostgreSQL has decided it: from its commit
-- on no copy of any message changes anything. Waits for one that is being decided. Returns the attempt's
-- outcome: void, or what was decided before.
CREATE FUNCTION void_change_v1(p_attempt_id bigint) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM bound_transaction_v1();
    INSERT INTO account_changes (attempt_id, outcome, changed_at) VALUES (p_attempt_id, 'void', clock_timestamp())
    ON CONFLICT (attempt_id) DO NOTHING;
    RETURN (SELECT c.outcome FROM account_changes c WHERE c.attempt_id = p_attempt_id);
END $$;

-- Decide and journal in mode postgres, under the locks of the account rows: as decide_batch_v2, which
-- older processes call, and
-- words     also account_frozen, account_closed
CREATE FUNCTION decide_batch_v3(
    p_shard smallint, p_epoch bigint, p_word text, p_attempt_id bigint, p_is_repeated boolean, p_balance_max bigint,
    p_extent text, p_request_scope integer, p_request_key text, p_request_name text, p_request_digest bytea, p_refusals text, p_positions integer[],
    p_account_nos bigint[], p_changes_minor bigint[],
    p_transaction_ids uuid[], p_references text[], p_metadata text[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[],
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
                                     request_digest, refusals, created_at)
        VALUES (nextval('journal_batch_seq'), p_shard, p_epoch, 'postgres', p_attempt_id, 'PENDING',
                v_count, p_changes_minor, p_request_digest, p_refusals::jsonb, clock_timestamp())
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
    -- A later statement, so that its snapshot has everything the locks were waited for.
    SELECT d.words, d.availables INTO words, availables
      FROM decide_items_v2(p_balance_max, p_account_nos, p_changes_minor, v_duplicates) AS d;
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
END $$;

-- Decide items in order as decide_items_v1 does; what an account takes no more is refused first.
CREATE FUNCTION decide_items_v2(
    p_balance_max bigint, p_account_nos bigint[], p_changes_minor bigint[], p_duplicates integer[],
    OUT words text[], OUT availables numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_account   record;
    v_item      integer;
    v_change    bigint;
    v_available numeric;
    v_incoming  numeric;
BEGIN
    SELECT array_agg(CASE WHEN position - 1 = ANY (p_duplicates) THEN 'duplicate' ELSE 'unknown_account' END ORDER BY position)
      INTO words FROM generate_series(1, cardinality(p_account_nos)) AS position;
    availables := array_fill(NULL::numeric, ARRAY[cardinality(p_account_nos)]);
    FOR v_account IN
        SELECT a.settled_minor + p.credit_minor - p.debit_minor + a.credit_limit_minor AS available, i.items,
               account_stop_v1(a.frozen, a.closed) AS stop
          FROM (SELECT account_no, array_agg(position ORDER BY position) AS items
                  FROM unnest(p_account_nos) WITH ORDINALITY AS u (account_no, position)
                 WHERE position - 1 <> ALL (p_duplicates)
                 GROUP BY account_no) AS i
          JOIN accounts a USING (account_no) CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
    LOOP
        v_available := v_account.available;
        v_incoming := 0;
        FOREACH v_item IN ARRAY v_account.items LOOP
            v_change := p_changes_minor[v_item];
            IF v_account.stop = 'closed' THEN
                words[v_item] := 'account_closed';
                availables[v_item] := v_available;
            ELSIF v_account.stop IN ('all', CASE WHEN v_change < 0 THEN 'debit' ELSE 'credit' END) THEN
                words[v_item] := 'account_frozen';
                availables[v_item] := v_available;
            ELSIF v_change < 0 AND v_available + v_change < 0 THEN
                words[v_item] := CASE WHEN v_available + v_incoming + v_change < 0 THEN 'insufficient_available'
                                      ELSE 'credit_in_flight' END;
                availables[v_item] := v_available;
            ELSIF v_change > 0 AND v_available + v_incoming + v_change > p_balance_max THEN
                words[v_item] := 'balance_limit_exceeded';
                availables[v_item] := v_available;
            ELSE
                words[v_item] := 'admitted';
                v_available := v_available + least(v_change, 0);
                v_incoming := v_incoming + greatest(v_change, 0);
            END IF;
        END LOOP;
    END LOOP;
END $$;
