"""The guards of conditions and reversals: as expected at the decision, and once."""

from tests.mutations.guard import CONDITIONS, Guard

_EXPECTATIONS = "lua/include/expectations.lua"
_LUA = "tests/lua/test_expectations.py"
_SQL = "tests/sql/test_conditions.py"
_REVERSALS = "tests/api/test_reversals.py"

CONDITION_GUARDS = (
    Guard(
        "versions_are_compared_by_admit",
        _EXPECTATIONS,
        "if wanted[1] and wanted[1] ~= entries then return 'version_mismatch' end",
        "",
        _LUA,
    ),
    Guard(
        "what_is_expected_may_be_on_its_way",
        _EXPECTATIONS,
        "return would_do and 'credit_in_flight' or 'available_below_expected'",
        "return 'available_below_expected'",
        _LUA,
    ),
    Guard(
        "a_stop_comes_before_what_is_expected",
        _EXPECTATIONS,
        "  if STOPPED[why] then return why end\n",
        "",
        _LUA,
    ),
    Guard(
        "what_is_released_is_no_entry",
        "lua/confirm.lua",
        "if not journaled then entries = entries - 1 end",
        "",
        _LUA,
    ),
    Guard(
        "a_refused_group_has_no_entries",
        "lua/admit_groups.lua",
        "    account.entries = account.entries - 1\n",
        "",
        _LUA,
    ),
    Guard(
        "versions_are_compared_by_postgres",
        CONDITIONS,
        "ELSIF p_expected_versions[v_item] <> v_entries THEN",
        "ELSIF false THEN",
        _SQL,
    ),
    Guard(
        "available_is_compared_by_postgres",
        CONDITIONS,
        "ELSIF v_available < p_expected_availables[v_item] THEN",
        "ELSIF false THEN",
        _SQL,
    ),
    Guard(
        "an_effective_time_is_not_after_the_booking",
        CONDITIONS,
        "CASE WHEN i.effective_at < accepted_at THEN i.effective_at END, i.reverses\n"
        "      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references,"
        " p_metadata, p_effective_ats, p_reverses)\n"
        "           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference,"
        " metadata, effective_at, reverses, position)\n"
        "     WHERE i.position - 1 <> ALL (duplicate_items);",
        "i.effective_at, i.reverses\n"
        "      FROM unnest(p_account_nos, p_changes_minor, p_transaction_ids, p_references,"
        " p_metadata, p_effective_ats, p_reverses)\n"
        "           WITH ORDINALITY AS i (account_no, change_minor, transaction_id, reference,"
        " metadata, effective_at, reverses, position)\n"
        "     WHERE i.position - 1 <> ALL (duplicate_items);",
        _SQL,
    ),
    Guard(
        "the_watermark_waits_for_who_journals",
        CONDITIONS,
        "RETURN least(v_now, v_oldest);",
        "RETURN v_now;",
        _SQL,
    ),
    Guard(
        "a_reversal_claims_what_it_reverses",
        "app/ledger/model.py",
        "return named if self.reverses is None else (*named, Identity.of_reversal(self.reverses))",
        "return named",
        _REVERSALS,
    ),
    Guard(
        "what_was_reversed_is_told_so",
        "app/ledger/item.py",
        "        if reversal is not None:\n",
        "        if False:\n",
        _REVERSALS,
    ),
    Guard(
        "a_dry_run_is_not_the_real_thing",
        "app/api/query.py",
        "        if name not in known and not any(_is_of_family(name, each) for each in known):",
        "        if False:",
        "tests/api/test_dry_run.py",
    ),
    Guard(
        "a_foreseen_change_is_taken_back",
        "sql/migrations/0013_foreseen_changes.sql",
        "RAISE EXCEPTION USING",
        "RAISE WARNING USING",
        "tests/api/test_dry_run_outcomes.py",
    ),
)
