"""The same load with commits as slow as on a slower disk, beside commits as they are.

PostgreSQL itself delays each flush (`commit_delay`, without waiting for siblings), and the delay is
verified on a single commit before each half of a round. Commits that arrive meanwhile share the
flush, as they would on a slow disk.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.compare.contestants import Say, measured
from bench.compare.marks import Mark
from bench.compare.measure import Field
from bench.compare.plan import in_turns
from bench.compare.samples import NAIVE, ROW_LOCKS, SERVICE, Cell, Median, Sample, medians
from bench.compare.table import form_of

DELAY_US = 2_000
AS_IS, DELAYED = "", f"commit delayed by {DELAY_US / 1_000:g} ms"
KEPT_SHARE = 0.7
BUSY, LOCK_CLIENTS = 256, 64
_COMMITS = 50
_RELOAD_LOOKS_MAX, _RELOAD_LOOK_S = 100, 0.02
_MANY = 10_000
_SHARE_OF_DELAY = 0.9


class Slowed(NamedTuple):
    """The samples, and how long a single commit took under each condition, in milliseconds."""

    samples: list[Sample]
    commit_ms: Mapping[str, float]


def wanted() -> list[Cell]:
    """What is driven under both conditions."""
    loads = ((SERVICE, BUSY), (NAIVE, BUSY), (ROW_LOCKS, LOCK_CLIENTS))
    singles = [
        Cell(competitor, accounts, connections)
        for accounts in (1, _MANY)
        for competitor, connections in loads
    ]
    return [*singles, Cell(SERVICE, 1, 4, 1_000), Cell(SERVICE, 1, 4, 1_000, "item")]


def measure_slowed(field: Field, rounds: int, seconds: float, say: Say) -> Slowed:
    """Measure every cell under both conditions, in turns; ends the run when the delay fails."""
    connection = field.stage.connection(field.stage.database_url("postgres"))
    field.stage.wait(connection.execute("CREATE TABLE commits (number integer)"))
    samples: list[Sample] = []
    commits: dict[str, list[float]] = {AS_IS: [], DELAYED: []}
    for number in range(1, rounds + 1):
        for condition in in_turns_of_two(number):
            took_ms = field.stage.wait(_put_under(connection, condition))
            commits[condition].append(took_ms)
            say(f"{condition or 'commits as they are'}: a single one takes {took_ms:.2f} ms")
            for cell in in_turns(wanted(), number):
                contestant = field.contestants.get(cell.competitor)
                if contestant is not None:
                    under = cell._replace(condition=condition)
                    samples.append(measured(contestant, under, number, seconds, say))
    field.stage.wait(_put_under(connection, AS_IS))
    commit_ms = {condition: statistics.median(each) for condition, each in commits.items()}
    if commit_ms[DELAYED] - commit_ms[AS_IS] < _SHARE_OF_DELAY * DELAY_US / 1_000:
        raise SystemExit(f"commits are not delayed: {commit_ms}")
    return Slowed(samples, commit_ms)


def in_turns_of_two(number: int) -> Sequence[str]:
    """Order the conditions of a round."""
    return (AS_IS, DELAYED) if number % 2 else (DELAYED, AS_IS)


async def _put_under(connection: Any, condition: str) -> float:
    """Set or take away the delay for every session, and measure a single commit."""
    delay = DELAY_US if condition == DELAYED else 0
    await connection.execute("ALTER SYSTEM SET commit_siblings = 0")
    await connection.execute(f"ALTER SYSTEM SET commit_delay = {delay}")
    await connection.execute("SELECT pg_reload_conf()")
    for _ in range(_RELOAD_LOOKS_MAX):
        if await connection.fetchval("SELECT current_setting('commit_delay')") == str(delay):
            break
        await asyncio.sleep(_RELOAD_LOOK_S)
    insert = await connection.prepare("INSERT INTO commits VALUES ($1)")
    took = []
    for number in range(_COMMITS):
        began = time.perf_counter()
        await insert.fetch(number)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1_000


def kept(slowed: Slowed) -> dict[Cell, tuple[Median, Median]]:
    """Pair what each cell did without and with the delay."""
    found = medians(slowed.samples)
    return {
        cell: (found[cell], found[cell._replace(condition=DELAYED)])
        for cell in found
        if cell.condition == AS_IS
    }


def mark(pairs: Mapping[Cell, tuple[Median, Median]]) -> Mark:
    """The demand on the service with a hot account."""
    demand = f"7: single, one hot account, {BUSY} connections: share kept with {DELAYED}"
    pair = pairs.get(Cell(SERVICE, 1, BUSY))
    if pair is None:
        return Mark(demand, "", None, KEPT_SHARE)
    before, after = pair[0].per_second, pair[1].per_second
    what = f"{after / before:.2f} = {after:,.0f} / {before:,.0f}"
    return Mark(demand, what, after / before, KEPT_SHARE)


def lines(pairs: Mapping[Cell, tuple[Median, Median]]) -> list[str]:
    """Write both conditions side by side."""
    table = [
        "| accounts | form | conns | who | as they are, tx/s | delayed, tx/s | kept | p50 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, (before, after) in pairs.items():
        table.append(
            f"| {cell.accounts:,} | {form_of(cell)} | {cell.connections} | {cell.competitor}"
            f" | {before.per_second:,.0f} | {after.per_second:,.0f}"
            f" | {after.per_second / before.per_second:.2f}"
            f" | {before.p50_ms:.2f}, {after.p50_ms:.2f} |"
        )
    return table
