"""The books of a comparison: a wrong cent anywhere ends the run."""

from typing import Any

import pytest

from app.ledger.codes import Mode
from bench.compare import books
from bench.compare.books import LedgerBooks, require
from bench.compare.naive import balance_key
from bench.compare.naive_books import NaiveBooks
from bench.compare.row_locks import RowLocks
from bench.compare.samples import NAIVE, ROW_LOCKS, SERVICE, Cell, Figures

FIGURES = Figures(3, 0, 0, 1_000_000, 1, 1, 1, 1)
CELL = Cell(SERVICE, 1, 1)
NAME = "B000000"
OPENING = 1_000


class Database:
    """Answers the statements of the books from a few numbers."""

    def __init__(self, settled: int, rows: int) -> None:
        self.settled = OPENING
        self.rows = 0
        self._after = (settled, rows)

    def happen(self) -> None:
        self.settled, self.rows = self._after

    async def fetch(self, statement: str, *_: object) -> list[dict[str, Any]]:
        if statement == books._BALANCES:
            return [{"account_no": 7, "account_id": NAME, "settled": self.settled}]
        change = {"account_no": 7, "account_id": NAME, "rows": self.rows, "change": -self.rows}
        return [{**change, "last": 9}] if self.rows else []

    async def fetchrow(self, *_: object) -> dict[str, int]:
        return {"pending": 0, "last": 9 if self.rows else 1}


class Redis:
    """Has one account's balance."""

    def __init__(self, available: int) -> None:
        self.available = str(available)

    async def hlen(self, _key: str) -> int:
        return 0

    def pipeline(self, **_: object) -> "Redis":
        return self

    def hmget(self, *_: object) -> None:
        pass

    async def execute(self) -> list[list[str]]:
        return [[self.available, "0"]]

    async def mget(self, _keys: object) -> list[str]:
        return [self.available]


class Services:
    """Decides nothing, settles nothing."""

    class mode:  # noqa: D106, N801
        @staticmethod
        async def read_ruling() -> Any:
            class Ruling:
                mode, epoch = Mode.REDIS, 1

            return Ruling

    class settler:  # noqa: D106, N801
        @staticmethod
        async def settle() -> None:
            pass


async def checked(
    monkeypatch: pytest.MonkeyPatch,
    *,
    settled: int = OPENING - 3,
    rows: int = 3,
    redis: int = OPENING - 3,
    api: str = "9.97",
) -> set[str]:
    """Check a run of three cents; returns the facts that do not hold."""
    monkeypatch.setattr(books, "ask", lambda _url: {"available_balance": api})
    database = Database(settled, rows)
    ledger = LedgerBooks(database, Redis(redis), Services())  # type: ignore[arg-type]
    await ledger.begin()
    database.happen()
    facts = await ledger.check(CELL, FIGURES, "", Mode.REDIS)
    return {name for name, holds in facts.items() if not holds}


async def test_books_that_agree_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await checked(monkeypatch) == set()
    assert await checked(monkeypatch, settled=996, rows=4, redis=996, api="9.96") == set()


@pytest.mark.parametrize(
    ("wrong", "noticed"),
    [
        ({"settled": OPENING - 2}, {"postgres", "redis", "api"}),
        ({"redis": OPENING - 2}, {"redis"}),
        ({"api": "9.98"}, {"api"}),
        (
            {"rows": 2, "settled": 998, "redis": 998, "api": "9.98"},
            {"every acceptance has its row"},
        ),
        (
            {"rows": 5, "settled": 995, "redis": 995, "api": "9.95"},
            {"every acceptance has its row"},
        ),
    ],
)
async def test_a_wrong_cent_is_noticed(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], noticed: set[str]
) -> None:
    assert await checked(monkeypatch, **wrong) == noticed


def test_what_does_not_hold_ends_the_run() -> None:
    require(CELL, FIGURES, {"redis": True})
    with pytest.raises(SystemExit, match=r"wrong after .*: redis, api"):
        require(CELL, FIGURES, {"postgres": True, "redis": False, "api": False})


@pytest.mark.parametrize(("available", "holds"), [(OPENING - 3, True), (OPENING - 2, False)])
async def test_the_naive_rivals_books_are_compared(
    monkeypatch: pytest.MonkeyPatch, available: int, holds: bool
) -> None:
    monkeypatch.setattr("bench.compare.naive_books._LOOK_S", 0)
    database = Database(0, 3)
    naive = NaiveBooks(database, Redis(available))
    naive._balances = {NAME: OPENING}
    database.happen()
    facts = await naive.check(Cell(NAIVE, 1, 1), FIGURES)
    assert facts["sum of rows = change of balance"] is holds
    assert facts["every acceptance has its row"]
    assert balance_key(NAME).endswith(NAME)


@pytest.mark.parametrize(("balance", "holds"), [(OPENING - 3, True), (OPENING - 4, False)])
async def test_the_row_locks_books_are_compared(balance: int, holds: bool) -> None:
    class Rows(Database):
        async def fetch(self, statement: str, *_: object) -> list[dict[str, Any]]:
            if "FROM accounts" in statement:
                return [{"account_no": 1, "available_minor": balance}]
            return [{"account_no": 1, "rows": 3, "change": -3, "last": 3}]

    locks = RowLocks(None, "", None, Rows(0, 3))  # type: ignore[arg-type]
    locks._balances = {1: OPENING}
    facts = await locks.check(Cell(ROW_LOCKS, 1, 1), FIGURES)
    assert facts["sum of rows = change of balance"] is holds
    assert facts["every acceptance has its row"]
