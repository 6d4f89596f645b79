"""History against a plain reference: as-of balances and statements are exact over random programs,
while others write and settle, in both modes, and what was final stays.
"""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

import asyncpg
import pytest

from app import errors
from app.bootstrap import Services
from app.kit.money import decimal_text, parse_amount
from app.ledger.codes import Direction, Mode
from app.ledger.history import Basis, Period, Statement
from app.ledger.model import AccountRequest, TransactionRequest
from app.ledger.transfers import TransferRequest
from tests.conftest import eventually
from tests.failure.modes import rule_by
from tests.sql.conftest import Sql

MICROSECOND = timedelta(microseconds=1)
SETTLE = "SELECT outcome FROM settle_chunk_v2($1, 1000000)"
ACCOUNTS = {"A": ("USD", 2), "B": ("USD", 2), "J": ("JPY", 0), "K": ("KWD", 3)}
MODES = [Mode.REDIS, Mode.POSTGRES]


class Booked(NamedTuple):
    """What the reference knows of an entry."""

    account_id: str
    at: datetime
    change_minor: int
    transaction_id: str


async def open_accounts(services: Services) -> None:
    for account_id, (currency, exponent) in ACCOUNTS.items():
        await services.ledger.open_account(
            AccountRequest(
                account_id=account_id, currency=currency, exponent=exponent, opening_minor=10**6
            )
        )


async def openings(database: Any) -> list[Booked]:
    rows = await database.fetch(
        "SELECT s.id::text, s.account_id, s.created_at FROM sub_balances s"
        " WHERE s.reference = 'opening balance'"
    )
    return [Booked(row["account_id"], row["created_at"], 10**6, row["id"]) for row in rows]


async def post(services: Services, account_id: str, change_minor: int) -> list[Booked]:
    exponent = ACCOUNTS[account_id][1]
    request = TransactionRequest(
        account_id=account_id,
        amount=parse_amount(decimal_text(abs(change_minor), exponent)),
        direction=Direction.CREDIT if change_minor > 0 else Direction.DEBIT,
    )
    done = (await services.ledger.post_transaction(request)).transaction
    return [Booked(account_id, done.accepted_at, change_minor, str(done.transaction_id))]


async def transfer(services: Services, amount_minor: int) -> list[Booked]:
    amount = parse_amount(decimal_text(amount_minor, 2))
    request = TransferRequest(debit_account_id="A", credit_account_id="B", amount=amount)
    await services.ledger.post_transfers([request], None)
    return []


async def act(services: Services, random: Random) -> list[Booked]:
    """Do one random thing, several at once now and then."""
    names = random.choices(list(ACCOUNTS), k=random.choice([1, 1, 1, 2, 5]))
    changes = [random.choice([-1, 1]) * random.randint(1, 500) for _ in names]
    done = await asyncio.gather(*map(post, itertools.repeat(services), names, changes))
    return [booked for each in done for booked in each]


def expected_at(history: Sequence[Booked], account_id: str, at: datetime) -> int:
    return sum(
        each.change_minor for each in history if each.account_id == account_id and each.at <= at
    )


async def all_visible(services: Services, history: Sequence[Booked]) -> None:
    """Wait until the watermark has passed everything."""
    last = max(each.at for each in history)

    async def is_final() -> bool:
        answer = await services.ledger.statements.balance_at("A", last, Basis.BOOKED)
        return answer.is_final

    await eventually(is_final)


async def pages_of(services: Services, account_id: str, random: Random) -> list[Statement]:
    """A statement of everything, in pages of random sizes."""
    pages: list[Statement] = []
    while not pages or pages[-1].next_place is not None:
        after = pages[-1].next_place if pages else None
        period = Period(after=after, limit=random.randint(1, 40))
        pages.append(await services.ledger.statements.statement(account_id, period))
    return pages


def check_pages(pages: Sequence[Statement], history: Sequence[Booked]) -> None:
    """Every entry once, in order, and balances that follow from one another."""
    account_id = pages[0].account.account_id
    entries = [entry for page in pages for entry in page.entries]
    places = [entry.place for entry in entries]
    assert places == sorted(set(places))
    balance = 0
    for page in pages:
        assert page.opening_minor == balance
        balance += sum(entry.transaction.change_minor for entry in page.entries)
        assert page.closing_minor == balance
    found = {str(entry.transaction.transaction_id) for entry in entries}
    end = pages[-1].end
    assert found == {
        each.transaction_id for each in history if each.account_id == account_id and each.at < end
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_programs_read_as_the_reference_does(
    services: Services, database: Any, mode: Mode, seed: int
) -> None:
    random = Random(seed)
    await open_accounts(services)
    history = await openings(database)
    await rule_by(services, database, mode)
    for _ in range(60):
        history += await act(services, random)
        if random.random() < 0.3:
            await database.fetchval(SETTLE, random.choice([1, 2, 5, 1000]))
    await all_visible(services, history)
    instants = sorted({each.at for each in history})
    around = [at + step for at in instants for step in (-MICROSECOND, timedelta(), MICROSECOND)]
    for round_ in range(2):
        for at in random.sample(around, min(80, len(around))):
            for account_id in ACCOUNTS:
                answer = await services.ledger.statements.balance_at(account_id, at, Basis.BOOKED)
                expected = expected_at(history, account_id, at)
                assert answer.balance_minor == expected, (seed, round_, account_id, at)
        for account_id in ACCOUNTS:
            check_pages(await pages_of(services, account_id, random), history)
        # Once more when nothing is pending; nothing of it may have changed.
        await database.fetchval(SETTLE, 1_000)


class Answer(NamedTuple):
    """A final answer that was given while others wrote."""

    account_id: str
    at: datetime
    balance_minor: int


async def write_late(url: str, mode: Mode, account_no: int, attempt: int) -> list[Booked]:
    """Journal a batch and commit it only after some other statements."""
    connection = await asyncpg.connect(url)
    try:
        other = await asyncpg.connect(url)
        async with connection.transaction():
            sql = Sql(connection)
            row = await connection.fetchrow("SELECT epoch, redis_token FROM ledger_shards")
            call = sql.journal if mode is Mode.REDIS else sql.decide
            done = await call(
                [(account_no, 3)], attempt=attempt, epoch=row["epoch"], word=row["redis_token"]
            )
            assert done["outcome"] == "journaled"
            for _ in range(20):
                await other.fetchval("SELECT count(*) FROM journal_batches")
        await other.close()
        key = await connection.fetchval(
            "SELECT assigned_transaction_id_v1($1, $2, 0::smallint)::text",
            done["accepted_at"],
            done["accepted_seq"],
        )
        return [Booked("A", done["accepted_at"], 3, key)]
    finally:
        await connection.close()


async def settle_until(is_over: asyncio.Event, url: str) -> None:
    connection = await asyncpg.connect(url)
    while not is_over.is_set():
        await connection.fetchval(SETTLE, 3)
    await connection.close()


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_final_while_others_wrote_never_changes(
    services: Services, database: Any, database_url: str, mode: Mode
) -> None:
    await open_accounts(services)
    history = await openings(database)
    await rule_by(services, database, mode)
    account_no = await database.fetchval("SELECT account_no FROM accounts WHERE account_id = 'A'")
    is_over = asyncio.Event()
    answers: list[Answer] = []
    pages: list[Statement] = []

    async def write(seed: int) -> None:
        random = Random(seed)
        for _ in range(40):
            history.extend(await act(services, random))

    async def write_slowly() -> None:
        for number in range(15):
            history.extend(await write_late(database_url, mode, account_no, 10**6 + number))

    async def ask(seed: int) -> None:
        random, statements = Random(seed), services.ledger.statements
        while not is_over.is_set():
            account_id = random.choice(list(ACCOUNTS))
            at = random.choice(history).at + random.choice([-MICROSECOND, timedelta()])
            answer = await statements.balance_at(account_id, at, Basis.BOOKED)
            if answer.is_final:
                answers.append(Answer(account_id, at, answer.balance_minor))

    async def page_on() -> None:
        """Follow one account's statement while it grows, from page to page."""
        statements = services.ledger.statements
        after = None
        while not is_over.is_set():
            page = await statements.statement("A", Period(after=after, limit=7))
            if page.entries:
                pages.append(page)
                after = page.entries[-1].place

    asking = [asyncio.create_task(each) for each in (ask(1), ask(2), page_on())]
    asking.append(asyncio.create_task(settle_until(is_over, database_url)))
    await asyncio.gather(write(1), write(2), write(3), write_slowly())
    is_over.set()
    await asyncio.gather(*asking)
    assert len(answers) > 50
    assert len(pages) > 5
    wrong = [each for each in answers if expected_at(history, *each[:2]) != each.balance_minor]
    assert wrong == []
    last = pages[-1].entries[-1].place.at
    known = {each.transaction_id for each in history if each.account_id == "A" and each.at <= last}
    followed = [str(e.transaction.transaction_id) for page in pages for e in page.entries]
    assert len(followed) == len(set(followed))
    at_last = {each.transaction_id for each in history if each.at == last}
    assert known - set(followed) <= at_last
    for before, after in itertools.pairwise(pages):
        assert after.opening_minor == before.closing_minor
    # Redis was not told of what was journaled past it.
    mismatches = (await services.ledger.verify()).mismatches
    assert {each.store for each in mismatches} <= {"redis"}


async def test_halves_of_transfers_are_in_both_statements(
    services: Services, database: Any
) -> None:
    await open_accounts(services)
    for amount in (5, 7):
        await transfer(services, amount)
    await database.fetchval(SETTLE, 1)
    found = {}
    for account_id in ("A", "B"):

        async def all_entries(account_id: str = account_id) -> Any:
            page = await services.ledger.statements.statement(account_id, Period())
            return page.entries[1:] if len(page.entries) == 3 else None

        entries = await eventually(all_entries)
        found[account_id] = [
            (each.transaction.transfer_id, each.transaction.change_minor) for each in entries
        ]
    assert [(each, -change) for each, change in found["A"]] == found["B"]


async def test_nothing_is_read_of_an_account_that_is_not_there(services: Services) -> None:
    await open_accounts(services)
    with pytest.raises(errors.AccountNotFound):
        await services.ledger.statements.statement("NOBODY", Period())
