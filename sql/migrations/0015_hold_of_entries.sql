-- The hold that an entry belongs to, for who reads the entry.
--
-- Why: of a capture its receiver saw only the ledger's own account on the other side, and not which hold was
-- captured. Locks: none. Safe while old code runs: yes.

-- The hold that an entry with that account on the other side sets money aside for, captures or gives back; NULL
-- where the other account is none of the ledger's own.
CREATE FUNCTION hold_of_v1(p_batch_seq bigint, p_item_no smallint, p_other_account_id text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_other_account_id LIKE 'holding:%' THEN
        -- An act is known by the first item of its group.
        RETURN (SELECT h.hold_id
                  FROM journal_batches b
                  JOIN hold_acts h ON h.batch_seq = b.batch_seq
                                  AND h.item_no = array_position(b.group_nos, b.group_nos[p_item_no + 1]) - 1
                 WHERE b.batch_seq = p_batch_seq);
    END IF;
    RETURN NULL;
END $$;
