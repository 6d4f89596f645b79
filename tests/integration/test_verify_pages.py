"""How a verification goes through the books: in bounded pages, to the first that is not full, and
in the background at a pace that leaves the servers to the clients.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from app.bootstrap import Services, WorkerServices
from app.ledger.store import VERIFY_QUERIES
from app.ledger.verify import Verifier
from tests.conftest import OpenAccount
from tests.failure.test_hold_faults import place
from tests.failure.transfers import send
from tests.integration.test_transactions import request

NAMES = {sql: name for name, sql in VERIFY_QUERIES.items()}
PAGES = ("accounts_page", "batches_page", "settlements_page", "holds_page")
# Of the thirty seconds between two runs in the background.
BUDGET_S = 24
PAGE_S = 0.25
Asked = list[tuple[str, tuple[Any, ...], Any]]


def watched(
    verifier: Verifier,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[str], Awaitable[None]] | None = None,
) -> Asked:
    """What a verifier asks PostgreSQL from now on, with what, and what it is answered."""
    asked: Asked = []
    ask = verifier._store.fetch_sql

    async def fetch_sql(sql: str, *arguments: Any) -> Sequence[Any]:
        if before is not None:
            await before(NAMES[sql])
        rows = await ask(sql, *arguments)
        asked.append((NAMES[sql], arguments, rows))
        return rows

    monkeypatch.setattr(verifier, "_store", SimpleNamespace(fetch_sql=fetch_sql))
    return asked


def count_of(asked: Asked, name: str) -> int:
    return [each for each, _, _ in asked].count(name)


@pytest.fixture
async def history(services: Services, worker: WorkerServices, open_account: OpenAccount) -> None:
    """Seven settlements, each of a batch of one entry and one of four, and three holds."""
    await open_account("A", "100.00")
    await open_account("B")
    for _ in range(7):
        await services.ledger.post_transaction(request("A", "1"))
        await send(services, ("A", "B", "1"), ("A", "B", "2"))
        await worker.settler.settle()
    for _ in range(3):
        await place(services, "1")
    await worker.settler.settle()


@pytest.mark.parametrize(
    ("page", "comparison"),
    [
        ("accounts_page", "chains_broken"),
        ("batches_page", "entries_differing"),
        ("settlements_page", "lines_differing"),
        ("holds_page", "holds_differing"),
    ],
)
async def test_a_verification_ends_at_the_first_page_that_is_not_full(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    history: None,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    comparison: str,
) -> None:
    """What comes while a page is compared is for the next run, or under traffic none would end."""
    came = 0

    async def comes(name: str) -> None:
        nonlocal came
        if name == comparison and came < 3:
            came += 1
            await open_account(f"C{came}")
            await services.ledger.post_transaction(request("A", "1"))
            await place(services, "1")
            await worker.settler.settle()

    asked = watched(services.ledger._verifier, monkeypatch, comes)
    verification = await services.ledger.verify()
    assert (verification.complete, verification.mismatches) == (True, ())
    assert came == count_of(asked, page) == 1


@pytest.mark.parametrize("size", [2, 3, 4])
async def test_every_page_before_the_last_is_full(
    services: Services,
    history: None,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    monkeypatch.setattr("app.ledger.verify._PAGE", size)
    monkeypatch.setattr("app.limits.VERIFY_SETTLEMENTS_MAX", size)
    asked = watched(services.ledger._verifier, monkeypatch)
    verification = await services.ledger.verify()
    assert (verification.complete, verification.mismatches) == (True, ())
    tables = ("accounts", "journal_batches", "settlements", "holds")
    for page, table in zip(PAGES, tables, strict=True):
        rows = await database.fetchval(f"SELECT count(*) FROM {table}")
        assert count_of(asked, page) == rows // size + 1, page
        counted = {"journal_batches": "batches"}.get(table, table)
        assert verification.compared[counted] == rows


@pytest.mark.parametrize("entries_max", [1, 4, 5, 6, 11])
async def test_a_page_has_so_many_entries_however_few_batches_or_settlements_that_are(
    services: Services,
    history: None,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
    entries_max: int,
) -> None:
    """Without its last batch or settlement, which may be larger than that, each page is below."""
    monkeypatch.setattr("app.limits.VERIFY_ENTRIES_MAX", entries_max)
    asked = watched(services.ledger._verifier, monkeypatch)
    verification = await services.ledger.verify()
    assert (verification.complete, verification.mismatches) == (True, ())
    entry_count = await database.fetchval("SELECT count(*) FROM journal_entries")
    assert verification.compared["entries"] == entry_count
    for comparison, page, table, number in (
        ("entries_differing", "batches_page", "journal_batches", "batch_seq"),
        ("lines_differing", "settlements_page", "settlements", "settlement_id"),
    ):
        ranges = [arguments[:2] for name, arguments, _ in asked if name == comparison]
        for after, last in ranges:
            before_last = await database.fetchval(
                f"SELECT coalesce(sum(entry_count), 0) FROM {table}"
                f" WHERE {number} > $1 AND {number} < $2",
                after,
                last,
            )
            assert before_last < entries_max, comparison
        assert [after for after, _ in ranges[1:]] == [last for _, last in ranges[:-1]]
        assert len(ranges) > 1
        assert count_of(asked, page) - len(ranges) in (0, 1)


class Pace:
    """A clock that stands still but for pages, which take equally long, and pauses."""

    def __init__(self, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.pauses_s: list[float] = []
        its_asyncio = SimpleNamespace(
            create_task=asyncio.create_task, shield=asyncio.shield, sleep=self._pause
        )
        monkeypatch.setattr("app.ledger.verify.asyncio", its_asyncio)
        monkeypatch.setattr("app.ledger.verify._now", lambda: self.now)
        monkeypatch.setattr("app.ledger.verify._PAGE", 1)
        self.asked = watched(verifier, monkeypatch, self._work)

    async def _work(self, name: str) -> None:
        self.now += PAGE_S if name in PAGES else 0

    async def _pause(self, pause_s: float) -> None:
        """Redis is compared in no time, so there is no pause after it."""
        if pause_s:
            self.pauses_s.append(pause_s)
        self.now += pause_s


async def test_in_the_background_it_pauses_eight_times_as_long_as_it_works(
    worker: WorkerServices, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops when its time is up, and the next run goes on there."""
    pace = Pace(worker.consistency._verifier, monkeypatch)
    verification = await worker.consistency.step()
    assert set(pace.pauses_s) == {8 * PAGE_S}
    assert not verification.complete
    assert BUDGET_S <= pace.now < BUDGET_S + 9 * PAGE_S
    compared = count_of(pace.asked, "batches_page")
    await worker.consistency.step()
    begun = [arguments[0] for name, arguments, _ in pace.asked if name == "batches_page"]
    assert len(begun) > compared
    assert begun == sorted(set(begun))


async def test_who_waits_for_a_verification_is_told_sooner(
    services: Services, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = services.ledger._verifier
    pace = Pace(verifier, monkeypatch)
    await verifier.verify(BUDGET_S)
    assert set(pace.pauses_s) == {PAGE_S}


async def test_in_the_background_it_hurries_once_it_has_found_something(
    worker: WorkerServices,
    open_account: OpenAccount,
    history: None,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It pauses as long as it works from then on, and ends after a quarter of its time.

    What it finds is on no account that Redis has, which is compared first.
    """
    await open_account("E", currency="EUR")
    await database.execute(
        "UPDATE accounts SET version = version + 1 WHERE account_id = 'external:EUR'"
    )
    pace = Pace(worker.consistency._verifier, monkeypatch)
    verification = await worker.consistency.step()
    assert [each.kind for each in verification.mismatches] == ["account_version"]
    before = pace.pauses_s.index(PAGE_S)
    assert before > 0
    after = len(pace.pauses_s) - before
    assert pace.pauses_s == [8 * PAGE_S] * before + [PAGE_S] * after
    assert not verification.complete
    assert BUDGET_S / 4 <= 2 * PAGE_S * after <= BUDGET_S / 4 + 4 * PAGE_S
