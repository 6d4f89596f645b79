"""The list of guards names code and tests that exist, so `python -m tests.mutations` can run."""

from pathlib import Path

import pytest

from tests.mutations.guards import GUARDS, Guard

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_in_the_code_once(guard: Guard) -> None:
    text = (ROOT / guard.path).read_text()
    assert text.count(guard.text) == 1
    assert all((ROOT / test).exists() for test in guard.tests.split())


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_in_sql_is_that_of_the_newest_migration(guard: Guard) -> None:
    """Older versions of a function stand in older migrations, where nobody calls them any more."""
    later = [path for path in (ROOT / "sql/migrations").glob("*.sql") if path > ROOT / guard.path]
    if not guard.path.startswith("sql/migrations/"):
        later = []
    assert [path.name for path in later if guard.text in path.read_text()] == []
