"""The guards of holds: one act for each version, in time, and never more than is held."""

from tests.mutations.guard import CONDITIONS, HOLD_FAULTS, HOLDS, SQL_HOLDS, Guard

HOLD_GUARDS = (
    Guard(
        "holds_are_locked_before_they_are_read",
        HOLDS,
        "      ORDER BY h.hold_id FOR UPDATE;",
        "      ORDER BY h.hold_id;",
        HOLD_FAULTS,
    ),
    Guard(
        "one_act_for_each_version",
        HOLDS,
        "h.status IS DISTINCT FROM 'HELD' OR h.version <> a.version",
        "h.status IS DISTINCT FROM 'HELD'",
        f"{SQL_HOLDS} {HOLD_FAULTS}",
    ),
    Guard(
        "one_act_on_a_hold_in_a_batch",
        HOLDS,
        "WHERE a.turn > 1 OR ",
        "WHERE ",
        SQL_HOLDS,
    ),
    Guard(
        "nothing_is_captured_when_time_is_up",
        HOLDS,
        "            OR (a.kind = 'capture' AND h.expires_at <= clock_timestamp())\n",
        "",
        SQL_HOLDS,
    ),
    Guard(
        "nothing_expires_before_its_time",
        HOLDS,
        "(a.kind = 'expire' AND (h.expires_at IS NULL OR h.expires_at > clock_timestamp()))",
        "false",
        SQL_HOLDS,
    ),
    Guard(
        "what_is_left_out_is_not_done_to_its_hold",
        CONDITIONS,
        "p_account_nos, p_changes_minor, p_transaction_ids, v_left_out);",
        "p_account_nos, p_changes_minor, p_transaction_ids, '{}');",
        SQL_HOLDS,
    ),
    Guard(
        "keys_of_holds_can_be_undone",
        CONDITIONS,
        "duplicate_items := claim_keys_v1(",
        "duplicate_items := claim_keys_v2(",
        SQL_HOLDS,
    ),
    Guard(
        "a_hold_that_lacks_what_another_act_takes_is_tried_again",
        "app/ledger/hold_unit.py",
        "        if is_holding and isinstance(error, errors.InsufficientAvailable):\n",
        "        if False:\n",
        HOLD_FAULTS,
    ),
    Guard(
        "an_account_with_a_hold_is_not_closed",
        HOLDS,
        "WHERE h.account_no = v_before.account_no AND h.status = 'HELD')",
        "WHERE false)",
        "tests/api/test_holds.py",
    ),
    Guard(
        "an_act_that_was_done_is_told_before_it_is_refused",
        "app/ledger/hold_service.py",
        "done = await self._done(wanted)",
        "done = None",
        "tests/api/test_holds.py",
    ),
)
