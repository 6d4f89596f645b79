-- The hold that an entry belongs to, for who reads the entry.
--
-- Why: of a capture its receiver saw only the ledger's own account on the other side, and not which hold was
-- captured. Locks: none. Safe while old code runs: yes.

-- The hold whose act the entry at a place in the journal is part of. An act is known by the first leg it was
-- asked with; Redis places a batch's entries by account, so that one may stand behind the others of its group.
-- Never a whole table, however small it was when this was planned.
CREATE FUNCTION hold_acted_on_v1(p_batch_seq bigint, p_item_no smallint) RETURNS uuid
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT h.hold_id
              FROM journal_batches b
              JOIN hold_acts h ON h.batch_seq = p_batch_seq
                              AND h.item_no = ANY (ARRAY(SELECT (position - 1)::smallint
                                                           FROM unnest(array_positions(b.group_nos, b.group_nos[p_item_no + 1])) AS position))
             WHERE b.batch_seq = p_batch_seq);
END $$;

-- The hold that an entry sets money aside for, captures or gives back; NULL where neither its account nor the
-- other one is where held money is.
CREATE FUNCTION hold_of_v1(p_batch_seq bigint, p_item_no smallint, p_account_id text, p_other_account_id text) RETURNS uuid
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_account_id LIKE 'holding:%' OR p_other_account_id LIKE 'holding:%'
                THEN hold_acted_on_v1(p_batch_seq, p_item_no) END
$$;
