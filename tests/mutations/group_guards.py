"""The guards of groups of transfers: admitted, decided, journaled and known again as a whole."""

from tests.mutations.guard import (
    GROUPS,
    LUA_GROUPS,
    SQL_GROUPS,
    TRANSFERS,
    Guard,
)

GROUP_GUARDS = (
    Guard(
        "a_refused_group_is_taken_back",
        "lua/admit_groups.lua",
        "for i = #undo, 1, -1 do",
        "for i = 1, 0 do",
        LUA_GROUPS,
    ),
    Guard(
        "what_it_would_have_brought_as_well",
        "lua/admit_groups.lua",
        "undo[i][2], undo[i][3], undo[i][4], undo[i][5]",
        "undo[i][2], undo[i][3], account[3] or undo[i][4], account[4] or undo[i][5]",
        LUA_GROUPS,
    ),
    Guard(
        "duplicates_leave_their_group_out",
        TRANSFERS,
        "     WHERE group_no IN (SELECT p_group_nos[item + 1] FROM unnest(p_duplicates) AS item);",
        "     WHERE position - 1 = ANY (p_duplicates);",
        SQL_GROUPS,
    ),
    Guard(
        "postgres_takes_back_what_a_refused_group_took",
        TRANSFERS,
        "            v_available := v_available_before;\n",
        "",
        SQL_GROUPS,
    ),
    Guard(
        "postgres_takes_back_what_it_would_have_brought",
        TRANSFERS,
        "            v_incoming := v_incoming_before;\n",
        "",
        SQL_GROUPS,
    ),
    Guard(
        "repeated_groups_are_told_before_short_ones",
        TRANSFERS,
        "CASE WHEN p_group_nos[v_item] = ANY (v_repeated) THEN 'duplicate' ELSE 'admitted' END;",
        "'admitted';",
        f"{SQL_GROUPS} {GROUPS}",
    ),
    Guard(
        "groups_that_are_torn_apart_are_not_decided",
        TRANSFERS,
        "IF p_group_nos[v_item] < p_group_nos[v_item - 1] THEN",
        "IF false THEN",
        SQL_GROUPS,
    ),
    Guard(
        "postgres_gets_groups_together",
        "app/ledger/pipeline.py",
        "items = put_together(items) if self._extent is Extent.GROUPS else items",
        "pass",
        GROUPS,
    ),
    Guard(
        "debits_of_a_group_come_first",
        "app/ledger/unit.py",
        "self.legs = [*debits, *credits_]",
        "self.legs = [*credits_, *debits]",
        GROUPS,
    ),
    Guard(
        "whole_groups_are_decided_anew",
        "app/ledger/refusals.py",
        "again += item.together",
        "again.append(item)",
        GROUPS,
    ),
    Guard(
        "half_a_transfer_is_no_transaction_s_repetition",
        "app/ledger/item.py",
        "            and transaction.transfer_id is None\n",
        "",
        GROUPS,
    ),
)
