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
