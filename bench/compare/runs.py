"""The runs that can be asked for: each opens the stage, measures, and writes its results."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from bench.compare import events, guarantees, marks, observation
from bench.compare import slow_commit as slowed
from bench.compare import table as tables
from bench.compare.alike import has_batches
from bench.compare.ceilings import ACCOUNTS as CEILING_ACCOUNTS
from bench.compare.ceilings import ceilings
from bench.compare.contestants import Ledger, Say, Service, open_accounts
from bench.compare.marks import BUSY, HOT, MANY
from bench.compare.measure import Field
from bench.compare.plan import Selection, cells
from bench.compare.report import page, write_page
from bench.compare.samples import (
    HOLDS,
    POSTGRES_MODE,
    SERVICE,
    TRANSACTIONS,
    TRANSFERS,
    Cell,
    Sample,
    medians,
    write_raw,
)
from bench.compare.stage import Stage, open_stage
from bench.compare.surroundings import surroundings
from bench.compare.unbatched import alone, busy, gains, lonely

# So many turns for each round of the table.
LONELY_TURNS, LONELY_SECONDS = 6, 1.0
_BEGAN = time.monotonic()


class Turned(Protocol):
    """A sample, with what else was measured of it."""

    @property
    def sample(self) -> Sample:
        """The sample."""
        ...


T = TypeVar("T", bound=Turned)


class Options(NamedTuple):
    """What is wanted of a run."""

    parts: Sequence[str]
    selection: Selection
    rounds: int
    seconds: float
    results: Path


class Ended(NamedTuple):
    """What is known when a run is over: what it ran with, and the services' own proofs."""

    settings: dict[str, str]
    checks: list[str]


def say(text: str) -> None:
    """Show how far the run is, with the seconds since the program began."""
    print(f"{time.monotonic() - _BEGAN:5.0f} s  {text}", flush=True)


def table(options: Options) -> str:
    """Everybody at every load: the table, and the marks it is held to."""
    wanted = cells(options.selection)
    names = {cell.competitor for cell in wanted}
    accounts = max(options.selection.accounts)
    wants_ceilings, wants_lonely = "ceilings" in options.parts, "lonely" in options.parts
    with open_stage(options.seconds) as stage:
        open_accounts(stage, max(accounts, *CEILING_ACCOUNTS) if wants_ceilings else accounts)
        found = ceilings(stage, options.seconds) if wants_ceilings else []
        field = Field(stage, names | ({SERVICE} if wants_lonely else set()), accounts, say)
        wanted = _there(field, wanted)
        field.warm_up()
        turns: list[Sample] = []
        if wants_lonely:
            turns = lonely(_ledger(field), LONELY_TURNS * options.rounds, LONELY_SECONDS, say)
        samples = field.measure(wanted, options.rounds, options.seconds)
        ended = _ended(field, options)
    limits = {each.name: each.per_second for each in found}
    lone = alone(turns) if turns else None
    parts = [("Marks", marks.lines(marks.marks(medians(samples), limits, lone)))]
    if samples:
        parts.append(("Everybody", tables.lines(medians(samples), field.absent)))
    if limits:
        parts.append(("Each server alone, in batches of 1,000", _ceiling_lines(limits)))
    if turns:
        parts.append(("One connection, in turns", tables.lines(medians(turns), {})))
    title = "This service beside its rivals"
    raw = {"ceilings": limits, "alone": lone}
    return _written(options, ("compare", title), ended, parts, [*samples, *turns], **raw)


def modes(options: Options) -> str:
    """Mode `postgres` beside mode `redis`."""
    wanted = [
        Cell(competitor, accounts, connections)
        for accounts in (HOT, MANY)
        for connections in BUSY
        for competitor in (SERVICE, POSTGRES_MODE)
    ]
    with open_stage(options.seconds) as stage:
        open_accounts(stage, MANY)
        field = Field(stage, {SERVICE, POSTGRES_MODE}, MANY, say)
        field.warm_up()
        samples = field.measure(wanted, options.rounds, options.seconds)
        ended = _ended(field, options)
    parts = [("Medians", tables.lines(medians(samples), {}))]
    return _written(options, ("modes", "Mode postgres beside mode redis"), ended, parts, samples)


def many(options: Options) -> str:
    """With and without micro-batching, at many connections."""
    with open_stage(options.seconds) as stage:
        open_accounts(stage, HOT)
        field = Field(stage, {SERVICE}, HOT, say)
        samples = busy(_ledger(field), options.rounds, options.seconds, say)
        ended = _ended(field, options)
    found = medians(samples)
    parts = [("Micro-batching", gains(found)), ("Medians", tables.lines(found, {}))]
    return _written(options, ("busy", "With and without micro-batching"), ended, parts, samples)


def slow_commit(options: Options) -> str:
    """With commits that take longer, and as they are."""
    wanted = slowed.wanted()
    with open_stage(options.seconds) as stage:
        open_accounts(stage, MANY)
        field = Field(stage, {cell.competitor for cell in wanted}, MANY, say)
        field.warm_up()
        found = slowed.measure_slowed(field, options.rounds, options.seconds, say)
        ended = _ended(field, options)
    for condition, took in found.commit_ms.items():
        ended.settings[f"a single commit, {condition or 'as it is'}"] = f"{took:.2f} ms"
    pairs = slowed.kept(found)
    parts = [("Mark", marks.lines([slowed.mark(pairs)])), ("Medians", slowed.lines(pairs))]
    return _written(options, ("slow-commit", "With slow commits"), ended, parts, found.samples)


def costs(options: Options) -> str:
    """The service with everything on beside copies that do without one guarantee."""
    with open_stage(options.seconds) as stage:
        samples = guarantees.measure_guarantees(stage, options.rounds, options.seconds, say)
        ended = Ended(surroundings(stage, options.rounds, options.seconds), [])
    parts = [("Without one", guarantees.lines(medians(samples)))]
    title = "What each guarantee costs"
    return _written(options, ("guarantees", title), ended, parts, samples)


def observed(options: Options) -> str:
    """The service with metrics beside itself without."""
    named = ("observation", "What it costs to count and time")
    return _in_pairs(options, named, observation.measure_observation, observation.lines)


def streamed(options: Options) -> str:
    """The service with the stream of events beside itself without."""
    named = ("events", "What the stream of events costs")
    return _in_pairs(options, named, events.measure_events, events.lines)


def operations(options: Options) -> str:
    """Transfers, holds and groups of ten beside single transactions and bulk requests of ten."""
    forms = [(1, TRANSACTIONS), (1, TRANSFERS), (1, HOLDS), (10, TRANSACTIONS), (10, TRANSFERS)]
    wanted = [
        Cell(competitor, MANY, connections, items, kind=kind)
        for connections in BUSY
        for competitor in (SERVICE, POSTGRES_MODE)
        for items, kind in forms
    ]
    with open_stage(options.seconds) as stage:
        open_accounts(stage, MANY)
        field = Field(stage, {SERVICE, POSTGRES_MODE}, MANY, say)
        field.warm_up()
        samples = field.measure(wanted, options.rounds, options.seconds)
        ended = _ended(field, options)
    parts = [("Medians", tables.lines(medians(samples), {}))]
    return _written(options, ("operations", "What each operation costs"), ended, parts, samples)


def _in_pairs(
    options: Options,
    named: tuple[str, str],
    measure: Callable[[Stage, int, float, Say], list[T]],
    lines: Callable[[Sequence[T]], list[str]],
) -> str:
    """The service with and without something, in turns."""
    with open_stage(options.seconds) as stage:
        turns = measure(stage, options.rounds, options.seconds, say)
        ended = Ended(surroundings(stage, options.rounds, options.seconds), [])
    samples = [turn.sample for turn in turns]
    return _written(options, named, ended, [("Pairs", lines(turns))], samples)


def _ended(field: Field, options: Options) -> Ended:
    """Let everybody prove their books, and say what they ran with."""
    return Ended(surroundings(field.stage, options.rounds, options.seconds), field.verified())


def _written(
    options: Options,
    named: tuple[str, str],
    ended: Ended,
    parts: Sequence[tuple[str, Sequence[str]]],
    samples: Sequence[Sample],
    **raw: object,
) -> str:
    """Write the page and every sample; `named` is the files' name and the title."""
    name, title = named
    text = page(title, ended.settings, parts, ended.checks)
    facts = {"settings": ended.settings, "checks": ended.checks, **raw}
    write_raw(options.results / f"{name}.json", samples, **facts)
    return f"{text}\n{write_page(options.results, name, text)}"


def _there(field: Field, wanted: Sequence[Cell]) -> list[Cell]:
    """Leave out what the service does not take yet, and say so in the table."""
    service = field.contestants.get(SERVICE)
    for encoding in {cell.encoding for cell in wanted if cell.items > 1}:
        if isinstance(service, Service) and not has_batches(service, encoding):
            field.absent[f"{SERVICE}: batches, {encoding}"] = "not there"
            wanted = [cell for cell in wanted if cell.items == 1 or cell.encoding != encoding]
    return list(wanted)


def _ledger(field: Field) -> Ledger:
    service = field.contestants[SERVICE]
    if not isinstance(service, Service):
        raise TypeError(f"{service} has no ledger")
    return service.ledger


def _ceiling_lines(limits: dict[str, float]) -> list[str]:
    rows = [f"| {name} | {rate:,.0f} |" for name, rate in limits.items()]
    return ["| who | items/s |", "|---|---|", *rows]


RUNS: dict[str, Callable[[Options], str]] = {
    "busy": many,
    "modes": modes,
    "operations": operations,
    "slow-commit": slow_commit,
    "guarantees": costs,
    "observation": observed,
    "events": streamed,
}
