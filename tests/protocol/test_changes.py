"""Every history of a change of an account within a bound on faults keeps the guarantees, and every
guard is needed.

Checked in every state: the account is not overdrawn; Redis lets no more go than there is; where
nothing but faults can happen any more, the account is not stopped, and a change that was told is
in force. Left out: several changes at once (the scripts tell them apart, see
`tests/lua/test_stops.py`), freezes (they are seen where the limit is), mode `postgres` (one SQL
transaction), and time.

Two guards are redundant here, and kept. `drained`: what is in flight would be found by comparing,
but then it would end the epoch. `refusals_kept`: what Redis had at the time is compared again, but
in mode `postgres` there is no such figure, and a change that was refused would be made.
"""

import pytest

from tests.protocol.changes import Guards, World, explore

OVERDRAWN = "the account is overdrawn"
TOO_MUCH = "redis would let more go than there is"
SHOWN_BY = {
    "stop_seen": OVERDRAWN,
    "compared": OVERDRAWN,
    "void": TOO_MUCH,
    "fenced": TOO_MUCH,
    "only_where_changing": TOO_MUCH,
    "shown": TOO_MUCH,
    "verified": "the account is stopped for ever",
}
REDUNDANT = ("drained", "refusals_kept")
# What the histories are for must have happened in them, or their safety says nothing.
HAPPENS = {
    "a late stop arrives",
    "a late decide arrives",
    "a late reload arrives",
    "a late journal arrives",
    "debit 0 is fenced",
    "debit 1 is released",
    "the account is busy",
    "the account is let go: reload",
    "the account is let go: undoing",
    "the change is decided: changed",
    "the change is decided: refused",
    "the change is decided: differs",
    "the change is decided: fenced",
    "the change is decided: void",
    "the reaper ends change: decided",
    "the reaper ends change: undone",
    "verification begins an epoch",
}


def without(*names: str) -> Guards:
    return Guards()._replace(**dict.fromkeys(names, False))


def test_every_guard_is_looked_at() -> None:
    assert {*SHOWN_BY, *REDUNDANT} == set(Guards._fields)


def test_a_change_is_safe_in_every_history() -> None:
    finding = explore(World(faults_max=2))
    assert finding.broken == "", finding.history
    assert finding.labels >= HAPPENS


@pytest.mark.parametrize("guard", SHOWN_BY)
def test_without_a_guard_a_history_breaks(guard: str) -> None:
    assert explore(World(without(guard), faults_max=2)).broken == SHOWN_BY[guard]


@pytest.mark.parametrize("guard", REDUNDANT)
def test_a_redundant_guard_has_another_behind_it(guard: str) -> None:
    assert explore(World(without(guard), faults_max=1)).broken == ""


def test_undrained_and_not_compared_the_account_is_overdrawn() -> None:
    assert explore(World(without("drained", "compared"), faults_max=0)).broken == OVERDRAWN
