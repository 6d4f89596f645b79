-- Holds: money set aside on an account until it is captured, released, or its time is up.
--
-- Why: POST /holds. Locks: none; the tables are new. Safe while old code runs: yes. The first process of
-- protocol version 5 opens an epoch that older ones refuse, who would let a client spend what is held.
--
-- The money of a hold is moved to the holding account of its currency by an ordinary transfer, and from there
-- by ordinary transfers again: to whoever it is captured for, or back. The holding account has at every
-- instant what is held of all holds that are open. What happens to a hold is decided here, by its row, in the
-- SQL transaction that journals the movement: of two acts on one version of it one is left out.

DO $$
BEGIN
    IF EXISTS (SELECT FROM accounts WHERE account_id LIKE 'holding:%') THEN
        RAISE EXCEPTION 'there are accounts named holding:..., which are the service''s own from here on; nothing was changed';
    END IF;
END $$;

CREATE TABLE holds (
    hold_no           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hold_id           uuid        NOT NULL CONSTRAINT holds_hold_id UNIQUE,
    account_no        bigint      NOT NULL,
    credit_account_no bigint,
    amount_minor      bigint      NOT NULL CONSTRAINT holds_amount CHECK (amount_minor > 0),
    captured_minor    bigint      NOT NULL DEFAULT 0 CONSTRAINT holds_captured CHECK (captured_minor >= 0),
    released_minor    bigint      NOT NULL DEFAULT 0 CONSTRAINT holds_released CHECK (released_minor >= 0),
    status            text        NOT NULL DEFAULT 'HELD'
                                  CONSTRAINT holds_status CHECK (status IN ('HELD', 'CAPTURED', 'RELEASED', 'EXPIRED')),
    version           integer     NOT NULL DEFAULT 1,
    expires_at        timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    CONSTRAINT holds_within CHECK (captured_minor + released_minor <= amount_minor),
    CONSTRAINT holds_end CHECK ((status = 'HELD') = (captured_minor + released_minor < amount_minor))
) WITH (fillfactor = 80);

CREATE INDEX holds_account ON holds (account_no, hold_no);
CREATE INDEX holds_open ON holds (account_no) INCLUDE (amount_minor, captured_minor, released_minor) WHERE status = 'HELD';
CREATE INDEX holds_due ON holds (expires_at, hold_no) WHERE status = 'HELD' AND expires_at IS NOT NULL;

-- What was done to a hold, one row for each of its versions, at the first entry of the group that did it.
CREATE TABLE hold_acts (
    hold_id        uuid     NOT NULL REFERENCES holds (hold_id),
    version        integer  NOT NULL,
    kind           text     NOT NULL CONSTRAINT hold_acts_kind CHECK (kind IN ('place', 'capture', 'release', 'expire')),
    captured_minor bigint   NOT NULL,
    released_minor bigint   NOT NULL,
    asked          text     NOT NULL,
    batch_seq      bigint   NOT NULL,
    item_no        smallint NOT NULL,
    PRIMARY KEY (hold_id, version),
    CONSTRAINT hold_acts_place UNIQUE (batch_seq, item_no)
);

-- A hold's row goes one version ahead at a time, and never once it has ended.
CREATE FUNCTION refuse_hold_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status = 'HELD' AND NEW.version = OLD.version + 1
       AND NEW.captured_minor >= OLD.captured_minor AND NEW.released_minor >= OLD.released_minor
       AND (NEW.hold_no, NEW.hold_id, NEW.account_no, NEW.amount_minor, NEW.created_at)
         = (OLD.hold_no, OLD.hold_id, OLD.account_no, OLD.amount_minor, OLD.created_at)
       AND (NEW.credit_account_no, NEW.expires_at) IS NOT DISTINCT FROM (OLD.credit_account_no, OLD.expires_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'change of hold % refused', OLD.hold_id USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER goes_ahead BEFORE UPDATE ON holds FOR EACH ROW EXECUTE FUNCTION refuse_hold_change();
CREATE TRIGGER no_delete BEFORE DELETE ON holds FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON hold_acts FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON holds EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON hold_acts EXECUTE FUNCTION refuse_change();

-- Acts on holds as rows, from what a batch says of them. item is the first of the act's group.
CREATE FUNCTION hold_acts_of_v1(p_holds jsonb)
RETURNS TABLE (
    item integer, kind text, hold_id uuid, version integer, captured_minor bigint, released_minor bigint,
    asked text, credit_account_no bigint, expires_in_s integer
) LANGUAGE sql IMMUTABLE AS $$
    SELECT * FROM jsonb_to_recordset(p_holds) AS o (
        item integer, kind text, hold_id uuid, version integer, captured_minor bigint, released_minor bigint,
        asked text, credit_account_no bigint, expires_in_s integer)
$$;

-- Lock the holds that a batch acts on; returns the items of acts that cannot be done: the hold is at another
-- version, has ended, is past its time for a capture or before it for its expiry, or another act of the
-- batch comes first. Part of the SQL transaction of journal_batch_v4 or decide_batch_v4.
CREATE FUNCTION claim_holds_v1(p_holds jsonb) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM holds h WHERE h.hold_id = ANY (ARRAY(SELECT o.hold_id FROM hold_acts_of_v1(p_holds) AS o))
      ORDER BY h.hold_id FOR UPDATE;
    -- A later statement, so that its snapshot has everything the locks were waited for.
    RETURN ARRAY(
        SELECT a.item
          FROM (SELECT o.*, row_number() OVER (PARTITION BY o.hold_id ORDER BY o.item) AS turn
                  FROM hold_acts_of_v1(p_holds) AS o WHERE o.kind <> 'place') AS a
          LEFT JOIN LATERAL (SELECT * FROM holds x WHERE x.hold_id = a.hold_id OFFSET 0) AS h ON true
         WHERE a.turn > 1 OR h.status IS DISTINCT FROM 'HELD' OR h.version <> a.version
            OR (a.kind = 'capture' AND h.expires_at <= clock_timestamp())
            OR (a.kind = 'expire' AND (h.expires_at IS NULL OR h.expires_at > clock_timestamp())));
END $$;

-- Do what a batch does to holds, its acts that were not left out. Part of the same SQL transaction.
CREATE FUNCTION apply_holds_v1(
    p_batch_seq bigint, p_accepted_at timestamptz, p_holds jsonb,
    p_account_nos bigint[], p_changes_minor bigint[], p_transaction_ids uuid[], p_left_out integer[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    WITH placed AS (
        INSERT INTO holds (hold_id, account_no, credit_account_no, amount_minor, expires_at, created_at, updated_at)
        SELECT coalesce(p_transaction_ids[o.item + 1], assigned_transaction_id_v1(p_accepted_at, p_batch_seq, o.item::smallint)),
               p_account_nos[o.item + 1], o.credit_account_no, -p_changes_minor[o.item + 1],
               p_accepted_at + make_interval(secs => o.expires_in_s), p_accepted_at, p_accepted_at
          FROM hold_acts_of_v1(p_holds) AS o WHERE o.kind = 'place' AND o.item <> ALL (p_left_out)
    )
    UPDATE holds h
       SET captured_minor = h.captured_minor + o.captured_minor, released_minor = h.released_minor + o.released_minor,
           version = h.version + 1, updated_at = p_accepted_at,
           status = CASE WHEN h.captured_minor + h.released_minor + o.captured_minor + o.released_minor < h.amount_minor THEN 'HELD'
                         WHEN o.kind = 'capture' THEN 'CAPTURED' WHEN o.kind = 'release' THEN 'RELEASED' ELSE 'EXPIRED' END
      FROM hold_acts_of_v1(p_holds) AS o
     WHERE o.kind <> 'place' AND o.item <> ALL (p_left_out) AND h.hold_id = o.hold_id
       AND h.hold_id = ANY (ARRAY(SELECT x.hold_id FROM hold_acts_of_v1(p_holds) AS x));
    INSERT INTO hold_acts (hold_id, version, kind, captured_minor, released_minor, asked, batch_seq, item_no)
    SELECT CASE WHEN o.kind = 'place'
                THEN coalesce(p_transaction_ids[o.item + 1], assigned_transaction_id_v1(p_accepted_at, p_batch_seq, o.item::smallint))
                ELSE o.hold_id END,
           CASE WHEN o.kind = 'place' THEN 1 ELSE o.version + 1 END,
           o.kind, o.captured_minor, o.released_minor, o.asked, p_batch_seq, o.item
      FROM hold_acts_of_v1(p_holds) AS o WHERE o.item <> ALL (p_left_out);
END $$;

-- Holds with everything that is shown of them: their accounts, who decided last, and what they were placed
-- with, unless the month of that was detached.
CREATE VIEW hold_details AS
SELECT h.hold_no, h.hold_id, h.amount_minor, h.captured_minor, h.released_minor, h.status, h.version,
       h.expires_at, h.created_at, h.updated_at, coalesce(h.expires_at <= statement_timestamp(), false) AS is_due,
       a.account_no, a.account_id, a.currency, a.exponent, c.account_no AS credit_no, c.account_id AS credit_id,
       e.reference, e.metadata::text AS metadata, b.mode
  FROM holds h
  JOIN accounts a ON a.account_no = h.account_no
  LEFT JOIN accounts c ON c.account_no = h.credit_account_no
  JOIN hold_acts p ON p.hold_id = h.hold_id AND p.version = 1
  LEFT JOIN journal_entries e ON e.batch_seq = p.batch_seq AND e.item_no = p.item_no AND e.created_at = h.created_at
  JOIN hold_acts l ON l.hold_id = h.hold_id AND l.version = h.version
  JOIN journal_batches b ON b.batch_seq = l.batch_seq;

-- What is held of an account.
CREATE FUNCTION held_v1(p_account_no bigint) RETURNS numeric LANGUAGE sql STABLE
RETURN (SELECT coalesce(sum(h.amount_minor - h.captured_minor - h.released_minor), 0)
          FROM holds h WHERE h.account_no = p_account_no AND h.status = 'HELD');

-- Change an account as before; it is not closed while anything of it is held.
CREATE OR REPLACE FUNCTION change_account_v1(
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
        WHEN v_after.closed AND EXISTS (SELECT FROM holds h WHERE h.account_no = v_before.account_no AND h.status = 'HELD')
             THEN 'account_not_empty'
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
