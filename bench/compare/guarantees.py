"""What each guarantee costs: the service beside copies of it that do without one.

A copy lives in a temporary folder; nothing here is changed. All of them run at once and are driven
in turns, and the books of each must be exact all the same, for nothing fails during a run.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.ledger.codes import Mode
from bench.compare.contestants import Ledger, Say, Service, measured, open_accounts, warm_up
from bench.compare.plan import in_turns
from bench.compare.samples import Cell, Median, Sample
from bench.compare.stage import Stage
from tests.cluster import ROOT
from tests.mutations.guards import FENCE, GUARDS

EVERYTHING = "everything on"
NO_KEYS = "no idempotency keys sent"
CONNECTIONS = 256
BATCH_CONNECTIONS, BATCH_ITEMS = 4, 1_000
_PARTS = ("app", "lua", "sql")
_DEFINITION = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1"
_GUARDS = {guard.name: guard for guard in GUARDS}


class Without(NamedTuple):
    """A guarantee: a file or an SQL function does without it where `text` is replaced."""

    name: str
    path: str
    text: str
    replacement: str
    function: str = ""

    def taken_out(self, text: str) -> str:
        """Replace; ends the run when there is nothing to replace."""
        if self.text not in text:
            raise SystemExit(f"{self.name}: its text is not in {self.function or self.path}")
        return text.replace(self.text, self.replacement)


WITHOUT = (
    Without(
        "scripts trust that this is the right Redis",
        FENCE,
        "  local server = redis.call('INFO', 'server')\n",
        "  if redis then return false end\n  local server = redis.call('INFO', 'server')\n",
    ),
    Without("late copies of a call are not noticed", *_GUARDS["sending_numbers"][1:4]),
    Without("the journal does not ask who rules", *_GUARDS["journal_fence"][1:4], "epoch_rules_v1"),
    Without(
        "commits do not wait for the disk",
        "app/infra/postgres.py",
        "SET synchronous_commit = on",
        "SET synchronous_commit = off",
    ),
)


def copy_without(folder: Path, number: int, without: Without) -> Path:
    """Copy the service and take one guarantee out of the copy."""
    copy = folder / f"without-{number}"
    ignored = shutil.ignore_patterns("__pycache__")
    for part in _PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=ignored)
    path = copy / without.path
    path.write_text(without.taken_out(path.read_text()))
    return copy


def measure_guarantees(stage: Stage, rounds: int, seconds: float, say: Say) -> list[Sample]:
    """Measure all copies in turns, with single requests and with batches."""
    open_accounts(stage, 1)
    services = {EVERYTHING: _started(stage, 0, None)}
    for number, without in enumerate(WITHOUT, start=1):
        services[without.name] = _started(stage, number, without)
    services[NO_KEYS] = services[EVERYTHING]
    for name, service in services.items():
        warm_up(service, Cell(name, 1, CONNECTIONS))
    wanted = [cell for name in services for cell in _cells(name)]
    return [
        measured(services[cell.competitor], cell, number, seconds, say)
        for number in range(1, rounds + 1)
        for cell in in_turns(wanted, number)
    ]


def lines(found: Mapping[Cell, Median]) -> list[str]:
    """Write what is gained without each guarantee: the ratio to everything on."""
    table = [
        "| without | form | conns | tx/s, median | p50 ms | times as much |",
        "|---|---|---|---|---|---|",
    ]
    for cell, median in sorted(found.items(), key=lambda pair: pair[0].items):
        keys = "item" if cell.items > 1 else "request"
        base = found[cell._replace(competitor=EVERYTHING, keys=keys)].per_second
        form = "single" if cell.items == 1 else f"{cell.items:,} a request, a key per item"
        table.append(
            f"| {cell.competitor} | {form} | {cell.connections} | {median.per_second:,.0f}"
            f" | {median.p50_ms:.2f} | {median.per_second / base:.2f} |"
        )
    return table


def _cells(name: str) -> Sequence[Cell]:
    single, item = ("none", "none") if name == NO_KEYS else ("request", "item")
    return (
        Cell(name, 1, CONNECTIONS, keys=single),
        Cell(name, 1, BATCH_CONNECTIONS, BATCH_ITEMS, keys=item),
    )


def _started(stage: Stage, number: int, without: Without | None) -> Service:
    """Start the service, or a copy without a guarantee, on a database of its own."""
    environment = {
        "DATABASE_URL": stage.make_database(f"guarantees_{number}", stage.schema_database),
        "REDIS_URL": stage.own_redis(),
    }
    if without is not None and without.function:
        connection = stage.connection(environment["DATABASE_URL"])
        stage.wait(_replace_function(connection, without))
    elif without is not None:
        # The copy goes before the working folder, which is the real service's.
        copy = copy_without(stage.folder, number, without)
        environment |= {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"}
    ledger = Ledger(stage, f"guarantees-{number}", Mode.REDIS, environment)
    return Service(ledger, f"guarantees-api-{number}")


async def _replace_function(connection: Any, without: Without) -> None:
    definition = await connection.fetchval(_DEFINITION, without.function)
    await connection.execute(without.taken_out(definition))
