-- The other half of a transfer, looked up as part of the statement that asks for it.
--
-- Why: as a function with a plan of its own it took most of the time of a page of events or of a list that shows
-- transfers. Locks: none. Safe while old code runs: yes, it answers the same.

-- The transfer that an entry is half of: its id, which is that of its debit, and the other account. OFFSET
-- keeps it a lookup by itself for each entry, or joins of many could read a batch for each entry of it.
CREATE OR REPLACE FUNCTION transfer_of_v1(p_batch_seq bigint, p_created_at timestamptz, p_item_no smallint, p_transfer_nos smallint[])
RETURNS TABLE (transfer_id uuid, other_account_id varchar) LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT CASE WHEN o.change_minor < 0
                THEN coalesce(o.transaction_id, assigned_transaction_id_v1(p_created_at, p_batch_seq, o.item_no))
                ELSE coalesce((SELECT s.transaction_id FROM journal_entries s
                                WHERE s.batch_seq = p_batch_seq AND s.item_no = p_item_no AND s.created_at = p_created_at),
                              assigned_transaction_id_v1(p_created_at, p_batch_seq, p_item_no)) END,
           (SELECT a.account_id FROM accounts a WHERE a.account_no = o.account_no)
      FROM journal_entries o
     WHERE o.batch_seq = p_batch_seq AND o.created_at = p_created_at
       -- A transfer's number stands at both its halves, so the other one is the first that is not this one.
       AND o.item_no = (array_position(p_transfer_nos, p_transfer_nos[p_item_no + 1],
                                       CASE WHEN array_position(p_transfer_nos, p_transfer_nos[p_item_no + 1]) = p_item_no + 1
                                            THEN p_item_no + 2 ELSE 1 END) - 1)::smallint
       AND p_transfer_nos[p_item_no + 1] IS NOT NULL
    OFFSET 0
$$;
