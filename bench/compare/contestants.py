"""Those who are compared: each is started, driven by its own way in, and its books are checked."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from app.bootstrap import OperatorServices, open_operator_services
from app.kit.ids import AttemptNumbers
from app.ledger.codes import Mode
from app.ledger.model import AccountRequest
from app.ledger.store import LedgerStore, draw_process_number
from app.settings import load_settings
from bench.compare.bodies import account_id
from bench.compare.books import LedgerBooks, ask, require
from bench.compare.naive_books import NaiveBooks
from bench.compare.row_locks import RowLocks
from bench.compare.samples import Cell, Figures, Sample, described
from bench.compare.stage import Stage
from bench.compare.wrk import drive

OPENING_MINOR = 10**12
_TIMEOUT_MS = 60_000
_WARM_UPS_MAX = 4
Say = Callable[[str], None]
EMPTY_SETTINGS: Mapping[str, str] = {}


class Contestant(Protocol):
    """Somebody who is driven, and whose books are compared afterwards."""

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Keep every connection busy for a while."""
        ...

    def check(self, cell: Cell, figures: Figures) -> Mapping[str, bool]:
        """Compare everything that must agree; each fact by its name."""
        ...


class Ledger:
    """One database of the service, its worker, and its books."""

    def __init__(self, stage: Stage, name: str, mode: Mode, environment: Mapping[str, str]) -> None:
        """Stand on a database that has the schema and the accounts, and say who decides."""
        self.stage = stage
        self.mode = mode
        self.environment = {**stage.service_settings, **environment}
        self.services: OperatorServices = stage.opened(
            open_operator_services(load_settings(self.environment))
        )
        if mode is Mode.POSTGRES:
            stage.wait(self.services.store.control("force_postgres", "bench", "to compare"))
        self.worker = stage.process(f"{name}-worker", "app.workers", self.environment)
        redis = stage.opened(stage.redis_client(self.environment["REDIS_URL"]))
        database = stage.connection(self.environment["DATABASE_URL"])
        self.books = LedgerBooks(database, redis, self.services)
        stage.wait(self.books.begin())


class Service:
    """One API process of this service on a ledger; several may share it."""

    def __init__(
        self, ledger: Ledger, name: str, settings: Mapping[str, str] = EMPTY_SETTINGS
    ) -> None:
        """Start it."""
        self.ledger = ledger
        stage = ledger.stage
        self.api = stage.server(name, "app.main", {**ledger.environment, **settings})

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Drive the API with wrk."""
        return drive(self.ledger.stage.folder, self.api.url, cell, seconds)

    def check(self, cell: Cell, figures: Figures) -> Mapping[str, bool]:
        """Compare the three stores."""
        ledger = self.ledger
        return ledger.stage.wait(ledger.books.check(cell, figures, self.api.url, ledger.mode))

    def verify(self) -> Mapping[str, Any]:
        """Let the service prove its own books, all of them."""
        told: Mapping[str, Any] = ask(f"{self.api.url}/api/v1/verify")
        return told


class Naive:
    """The naive design's server."""

    def __init__(self, stage: Stage, accounts: int) -> None:
        """Make its database, open its accounts and start it."""
        self._stage = stage
        urls = {"DATABASE_URL": stage.make_database("naive"), "REDIS_URL": stage.own_redis()}
        redis = stage.opened(stage.redis_client(urls["REDIS_URL"]))
        self._books = NaiveBooks(stage.connection(urls["DATABASE_URL"]), redis)
        stage.wait(self._books.begin(accounts, OPENING_MINOR))
        self.api = stage.server("naive", "bench.compare.naive", urls)

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Drive it with wrk."""
        return drive(self._stage.folder, self.api.url, cell, seconds)

    def check(self, cell: Cell, figures: Figures) -> Mapping[str, bool]:
        """Compare its rows with its balances."""
        return self._stage.wait(self._books.check(cell, figures))


class Empty:
    """The HTTP server with a handler that decides nothing."""

    def __init__(self, stage: Stage) -> None:
        """Start it."""
        self._stage = stage
        self.api = stage.server("empty", "bench.compare.empty", {})

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Drive it with wrk."""
        return drive(self._stage.folder, self.api.url, cell, seconds)

    def check(self, _cell: Cell, figures: Figures) -> Mapping[str, bool]:
        """It has no books."""
        return {"no refusals": figures.refused == 0 and figures.errors == 0}


class Locks:
    """Row locks by pgbench."""

    def __init__(self, stage: Stage, pgbench: Path) -> None:
        """Make its database and its accounts."""
        self._stage = stage
        url = stage.make_database("row_locks")
        self._rival = RowLocks(pgbench, url, stage.folder, stage.connection(url))
        stage.wait(self._rival.prepare())

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Let pgbench drive it; a connection is a client here."""
        return self._rival.drive(cell, seconds)

    def check(self, cell: Cell, figures: Figures) -> Mapping[str, bool]:
        """Compare its rows with its balances."""
        return self._stage.wait(self._rival.check(cell, figures))


def open_accounts(stage: Stage, accounts: int) -> None:
    """Open accounts in the schema's database, before others are made like it.

    In one SQL transaction, by the service's own statement.
    """
    url = stage.database_url(stage.schema_database)
    stage.wait(_open_accounts(stage.connection(url), accounts))


def warm_up(contestant: Contestant, cell: Cell) -> None:
    """Drive until every account of a cell was used, so that no sample pays for first uses."""
    seconds = 1
    for _ in range(_WARM_UPS_MAX):
        figures = contestant.drive(cell, seconds)
        require(cell, figures, contestant.check(cell, figures))
        if figures.accepted * cell.items >= 2 * cell.accounts:
            return
        seconds *= 3


def measured(contestant: Contestant, cell: Cell, number: int, seconds: float, say: Say) -> Sample:
    """Measure one cell once; ends the run when something is not exact."""
    figures = contestant.drive(cell, seconds)
    began = time.monotonic()
    require(cell, figures, contestant.check(cell, figures))
    sample = Sample(cell, number, figures)
    say(f"{described(sample)}  checked in {time.monotonic() - began:.1f} s")
    return sample


class _OnePool:
    """A pool of one connection that is inside a SQL transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.fetchval = connection.fetchval

    @asynccontextmanager
    async def acquire(self, *, timeout: float) -> AsyncIterator[Any]:  # noqa: ARG002, ASYNC109
        yield self._connection


async def _open_accounts(connection: Any, accounts: int) -> None:
    pool = cast("Any", _OnePool(connection))
    attempts = AttemptNumbers(await draw_process_number(pool, _TIMEOUT_MS))
    store = LedgerStore(pool, _TIMEOUT_MS)
    async with connection.transaction():
        for number in range(accounts):
            request = AccountRequest(
                account_id=account_id(number),
                currency="USD",
                exponent=2,
                opening_minor=OPENING_MINOR,
            )
            await store.open_account(request, attempts.draw())
    await connection.close()
