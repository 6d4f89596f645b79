"""What a guard is, and where guards and their tests stand."""

from typing import NamedTuple

FENCE = "lua/include/fence.lua"
DECISION = "lua/include/decision.lua"
RELIABILITY = "sql/migrations/0002_ledger_reliability.sql"
BATCHES = "sql/migrations/0003_ledger_batches.sql"
ACCOUNTS = "sql/migrations/0004_accounts_change.sql"
TRANSFERS = "sql/migrations/0005_transfers.sql"
HOLDS = "sql/migrations/0006_holds.sql"
CONDITIONS = "sql/migrations/0007_conditions.sql"
LUA_MONEY = "tests/lua/test_money.py"
LUA_STOPS = "tests/lua/test_stops.py"
JOURNAL = "tests/sql/test_journal.py"
DECIDE = "tests/sql/test_decide.py"
SQL_CHANGES = "tests/sql/test_changes.py"
SQL_PARTS = "tests/sql/test_parts.py"
BULK = "tests/api/test_bulk.py"
REAPER = "tests/failure/test_reaper.py"
SWITCHES = "tests/failure/test_switches.py"
TWINS = "tests/failure/test_twins.py"
LATE_COPIES = "tests/failure/test_late_copies.py"
TELLING = "tests/failure/test_telling.py"
CHANGES = "tests/failure/test_account_changes.py tests/failure/test_account_change_faults.py"
LUA_GROUPS = "tests/lua/test_groups.py"
SQL_HOLDS = "tests/sql/test_holds.py"
HOLD_FAULTS = "tests/failure/test_hold_faults.py"
SQL_GROUPS = "tests/sql/test_groups.py"
GROUPS = "tests/failure/test_transfer_faults.py"
LOST_REPLIES = "tests/failure/test_lost_replies.py"


class Guard(NamedTuple):
    """A guard: replacing `text` in `path` by `without` switches it off; `tests` must then fail."""

    name: str
    path: str
    text: str
    without: str
    tests: str
