"""The list of guards names code and tests that exist, so `python -m tests.mutations` can run."""

import re
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


def test_every_guard_has_its_row_with_a_test_that_is_run_for_it() -> None:
    table = (ROOT / "docs/reliability.md").read_text().partition("| guard |")[2]
    rows = re.findall(r"^\| (\w+) \| `([^`:]+)::\w+` \|$", table.partition("\n\n")[0], re.MULTILINE)
    assert [name for name, _ in rows] == [guard.name for guard in GUARDS]
    for guard, (_, test) in zip(GUARDS, rows, strict=True):
        assert any(test == path or test.startswith(f"{path}/") for path in guard.tests.split())
