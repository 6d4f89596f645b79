"""Every history within the scenarios' bounds keeps the guarantees, and every guard is needed.

Checked in every state, hence at every prefix of the journal:

* no account is overdrawn, its credit limit included, on any shard;
* what was acknowledged is in the journal, once for each identity;
* what was refused is never applied by the same sending, and what was accepted is not refused, nor
  what another attempt that was in flight at the decision is about to get accepted;
* in the epoch that rules, Redis has what PostgreSQL has, exactly, but for what is in flight;
* a sending that has ended, or goes again, holds nothing any more: the reaper is for the dead;
* a credit that anybody was told is accepted can be spent, unless something failed.

A restore of PostgreSQL, or the promotion of a lagging standby, takes the end of the history away.
What is guaranteed then: all of the above for the history that survives, and for all that is
committed after it. What was committed in the lost part is lost, even if its client is answered
later by a process that had learnt of the commit before; repeating its key moves the money, once.
The old PostgreSQL must not accept anything any more. Delayed calls may survive the restore.

Two guards are redundant, and kept for what they cost. `redis_identity`: a Redis that restarts has a
new replication id too. `compare_and_set`: two openings of one epoch differ in their words, so
without it epochs are only opened in vain. `redis_client_retries` matters for the token alone, for
all other calls are numbered or change nothing the second time. That only the worker goes back to
Redis is no guard either: anybody may open an epoch here at any time.

Left out: several items in a batch (hence a decision that is told again, with the names of its
time), groups with debits on several shards, holds, settlement (it changes nothing that may be
spent), opening of accounts, overflow, and time.
"""

import pytest

from tests.protocol.explore import Finding, explore, walk
from tests.protocol.scenarios import MARKET, REDUNDANT, SCENARIOS, SHOWN_BY
from tests.protocol.world import ALL_GUARDS, HAZARDS, Guards, World

WALKS = 200
WALK_STEPS_MAX = 200

# What a scenario is for must have happened in it, or its safety says nothing.
HAPPENS = {
    "retry": [
        "is flushed", "loses the account's key", "restarts empty", "journal: duplicate",
        "finds itself journaled by another attempt", "journal: fenced", "journal: refused",
        "insufficient, held by another sending of it", "looks itself up: journaled",
        "not journaled, its epoch is over", "not journaled, waits for the other",
    ],
    "twins": [
        "insufficient, held by another sending of it", "is released: done", "journal: void",
        "not journaled, waits for the other",
    ],
    "failover": ["with an old snapshot", "is promoted again", "admit on shard 0: fenced"],
    "switches": ["postgres 3 is opened", "redis 3 is opened", "journal: fenced"],
    "credit": [
        "is released", "journal: void", "journal: duplicate", "shard 0: present",
        "finds itself journaled by another attempt",
    ],
    "copies": [
        "late admit arrives: stale", "late admit arrives: admitted", "late confirm arrives: stale",
        "late load arrives: present", "its reply is lost", "redis does not answer",
    ],
    "journal": [
        "call of a/0 arrives: fenced", "call of a/0 arrives: void", "the journal cannot be reached",
        "call of a/0 arrives: journaled", "(journaled), its reply is lost",
    ],
    "fallback": [
        "call of b/1 arrives: fenced", "call of b/1 arrives: void", "(refused), its reply is lost",
        "call of b/1 arrives: journaled", "begins under redis 2",
    ],
    "restore": ["is restored", "token of epoch 2 arrives: fenced", "begins under redis 3"],
    "shards": [
        "redis 1, postgres 2", "postgres 2, redis 1", "journal: fenced", "journal: refused",
        "shard 1 it is released",
    ],
    "limit": ["journal: outdated", "load of 2 on shard 0: loaded", "journal: refused"],
}  # fmt: skip


def history_of(finding: Finding) -> str:
    return "\n  ".join((str(finding.broken), *finding.history))


def without(*names: str) -> Guards:
    return ALL_GUARDS._replace(**dict.fromkeys(names, False))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_history_keeps_the_guarantees(name: str) -> None:
    finding = explore(World(SCENARIOS[name]))
    assert finding.broken is None, history_of(finding)
    happened = "\n".join(finding.labels)
    assert [text for text in HAPPENS[name] if text not in happened] == []


@pytest.mark.parametrize("guard", SHOWN_BY)
def test_without_a_guard_some_history_breaks_a_guarantee(guard: str) -> None:
    name, broken = SHOWN_BY[guard]
    assert explore(World(SCENARIOS[name], without(guard))).broken == broken


@pytest.mark.parametrize("guard", REDUNDANT)
def test_a_redundant_guard_is_needed_once_the_other_is_gone(guard: str) -> None:
    other, name = REDUNDANT[guard]
    alone = explore(World(SCENARIOS[name], without(guard)))
    assert alone.broken is None, history_of(alone)
    assert explore(World(SCENARIOS[name], without(guard, other))).broken


def test_every_guard_and_every_hazard_is_looked_at() -> None:
    assert {*SHOWN_BY, *REDUNDANT} == set(Guards._fields)
    used = {hazard for scenario in SCENARIOS.values() for hazard in scenario.hazards}
    assert used == set(HAZARDS)


def test_long_random_histories_keep_the_guarantees() -> None:
    for seed in range(WALKS):
        finding = walk(World(MARKET), seed, WALK_STEPS_MAX)
        assert finding.broken is None, f"seed {seed}: {history_of(finding)}"


def test_random_histories_find_what_is_missing() -> None:
    world = World(MARKET, without("tombstone"))
    assert any(walk(world, seed, WALK_STEPS_MAX).broken for seed in range(WALKS))
