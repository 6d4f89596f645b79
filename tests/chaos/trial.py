"""What every run does after its load: waits until the service has come to rest, and compares.

It is told where the APIs and the servers are, whoever started them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from tests.chaos.changes import thaw_all
from tests.chaos.checker import (
    IN_FLIGHT,
    MADE_BY_FAULTS,
    MAY_PASS,
    Violation,
    check,
    count_behind,
)
from tests.chaos.client import HttpClient, Lost, NotSent
from tests.chaos.event_checker import wrong_events
from tests.chaos.facts import Facts, read_postgres, read_redis
from tests.chaos.history import History
from tests.chaos.listener import Listener
from tests.chaos.load import Load
from tests.chaos.probe import nudge, probe_accounts
from tests.chaos.stage import SERVER_ERRORS
from tests.cluster import is_ready

READY_TIMEOUT_S = 60.0
# A request of the settler that is lost without a word is given up after twice its 61 s.
SETTLED_TIMEOUT_S = 150.0
VERIFY_TIMEOUT_S = 30.0
# Where something is wrong already that does not pass, the rest is waited for no longer than this.
HOPELESS_TIMEOUT_S = 10.0
REAP_MARGIN_S = 5.0
POLL_S = 0.25
# A webhook that failed is tried again for so long at most, and the stream is filled again.
TOLD_TIMEOUT_S = 120.0
TOLD_POLL_S = 2.0
_NOT_FOUND = 404


class Place(NamedTuple):
    """Where to look, and at what: `prefix` is empty where everything belongs to the run."""

    urls: dict[str, str]
    database_url: str
    redis_url: Callable[[], str | None]
    prefix: str = ""
    reap_age_s: float = SETTLED_TIMEOUT_S
    listener: Listener | None = None
    explained: frozenset[str] = MADE_BY_FAULTS


class Rest(NamedTuple):
    """How the service came to rest, and what was found then."""

    ready_s: float
    settled_s: float
    rows: int
    behind: int
    events: int
    told_s: float
    verify: str
    violations: list[Violation]


async def examine(place: Place, history: History, load: Load) -> Rest:
    """Wait, compare, ask every account once more, and compare again."""
    ready_s, unready = await _until_ready(place.urls)
    unthawed = await thaw_all(place.urls, history, load)
    unready += [Violation("not_thawed", account_id, {}) for account_id in unthawed]
    await nudge(place.urls, history, load)
    settled_s, facts, found = await _until_settled(place, history)
    wrong = await probe_accounts(place.urls, history, facts, load)
    probed_s, facts, after_probe = await _until_settled(place, history)
    verify = await _verify(place.urls)
    everything = [*unready, *found, *wrong, *after_probe, *_unverified(verify)]
    told_s, events, untold = await _until_told(place, history, facts)
    everything += untold
    return Rest(
        ready_s=ready_s,
        settled_s=max(settled_s, probed_s),
        rows=len(facts.entries),
        behind=count_behind(facts),
        events=events,
        told_s=told_s,
        verify=str(verify.get("status", "not offered")),
        violations=_distinct(everything),
    )


async def _until_ready(urls: dict[str, str]) -> tuple[float, list[Violation]]:
    """Wait until every API decides transactions."""
    began = time.monotonic()
    while True:
        states = await asyncio.gather(*(asyncio.to_thread(is_ready, url) for url in urls.values()))
        took = round(time.monotonic() - began, 2)
        if all(states) or took > READY_TIMEOUT_S:
            break
        await asyncio.sleep(POLL_S)
    unready = [name for name, state in zip(urls, states, strict=True) if not state]
    return took, [Violation("not_ready_again", name, {}) for name in unready]


async def _until_settled(place: Place, history: History) -> tuple[float, Facts, list[Violation]]:
    """Wait until nothing differs and nothing is pending; else what differed at the bound.

    What is in flight must be gone as soon as the reaper has had the time it needs.
    """
    began = time.monotonic()
    while True:
        facts, found = await _compare(place, history)
        took = time.monotonic() - began
        kinds = {violation.kind for violation in found}
        is_leaking = took > place.reap_age_s + REAP_MARGIN_S and kinds & IN_FLIGHT
        bound_s = HOPELESS_TIMEOUT_S if kinds - MAY_PASS else SETTLED_TIMEOUT_S
        if not kinds & MAY_PASS or is_leaking or took > bound_s:
            return round(took, 2), facts, found
        await asyncio.sleep(POLL_S)


async def _compare(place: Place, history: History) -> tuple[Facts, list[Violation]]:
    facts = await read_postgres(place.database_url, place.prefix)
    unreadable: list[Violation] = []
    redis_url = place.redis_url()
    if facts.ruling.mode != "redis":
        unreadable = [Violation("redis_does_not_decide", facts.ruling.mode, {})]
    elif redis_url is not None:
        try:
            held = await read_redis(redis_url, facts.ruling.epoch, place.prefix)
            facts = facts._replace(redis=held)
        except SERVER_ERRORS as exc:
            unreadable = [Violation("redis_unreadable", str(facts.ruling.epoch), {"why": exc})]
    pending = sum(entry.status == "PENDING" for entry in facts.entries)
    late = [Violation("not_settled", f"{pending} rows", {})] if pending else []
    found = check(history, facts, is_whole=not place.prefix, explained=place.explained)
    return facts, [*found, *unreadable, *late]


async def _until_told(
    place: Place, history: History, facts: Facts
) -> tuple[float, int, list[Violation]]:
    """Wait until everything was told to everybody; else what was not at the bound."""
    redis_url = place.redis_url()
    if place.listener is None or redis_url is None:
        return 0.0, 0, []
    began = time.monotonic()
    while True:
        told = await place.listener.told(next(iter(place.urls.values())), redis_url)
        found = [
            Violation(kind, subject, {"told": detail})
            for kind, subject, detail in wrong_events(history, facts, told)
        ]
        took = time.monotonic() - began
        if not found or took > TOLD_TIMEOUT_S:
            return round(took, 2), len(told.feed), found
        await asyncio.sleep(TOLD_POLL_S)


async def _verify(urls: dict[str, str]) -> dict[str, Any]:
    """Ask the service to prove itself; empty when it does not offer that."""
    client = HttpClient(next(iter(urls.values())))
    try:
        answer = await client.request("GET", "/api/v1/verify", VERIFY_TIMEOUT_S)
        if answer.status == _NOT_FOUND:
            return {}
        return dict(msgspec.json.decode(answer.body))
    except (NotSent, Lost, msgspec.DecodeError) as exc:
        return {"status": f"unanswered: {exc}"}
    finally:
        client.close()


def _unverified(verify: dict[str, Any]) -> list[Violation]:
    if not verify or (verify.get("status") == "verified" and verify.get("complete", True)):
        return []
    return [Violation("verify_disagrees", str(verify.get("status")), verify)]


def _distinct(found: Sequence[Violation]) -> list[Violation]:
    """Each violation once, although it was seen before and after the probes."""
    seen = {(violation.kind, violation.subject): violation for violation in reversed(found)}
    return list(reversed(seen.values()))
