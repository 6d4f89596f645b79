"""One suite, three engines: Redis, PostgreSQL and the reference model decide alike.

The same random programs of postings and changes of accounts run through the whole service in mode
`redis`, in mode `postgres`, and in one that is switched between the two at random; every answer and
balance must be the reference's.
"""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest

from app import errors
from app.bootstrap import Services, WorkerServices, open_services, open_worker_services
from app.kit.money import DecimalText, decimal_text, parse_amount
from app.ledger.admission import Slot
from app.ledger.codes import Direction, Frozen
from app.ledger.holds import CaptureRequest, HoldRequest
from app.ledger.item import Item
from app.ledger.model import AccountChange, AccountRequest, TransactionRequest
from app.ledger.transfers import TransferRequest
from app.settings import Settings
from tests.conformance.reference import AMOUNT_MAX, Reference
from tests.failure.conftest import pipeline_of

ACCOUNTS = {"A": (300, 0), "B": (0, 200), "C": (AMOUNT_MAX, 0), "D": (0, 0)}
STEPS = 120
SEEDS = (1, 2, 3)


FROZEN = ("none", "none", "debit", "credit", "all")


class Step(NamedTuple):
    """A posting; with no account a settlement; with a change of the account, transfers or something
    about a hold, that: a name, an amount, and for a new one whom it is for, else whether it ends.
    """

    account_id: str
    change: int
    key: str
    change_of: str = ""
    transfers: tuple[tuple[str, str, int], ...] = ()
    hold: tuple[str, int | None, str | bool | None] | None = None


def program(seed: int) -> list[Step]:
    """Draw a program: small and largest amounts, both ways, keys that come again."""
    random = Random(seed)
    steps: list[Step] = []
    for number in range(STEPS):
        if random.random() < 0.08:
            steps.append(Step("", 0, ""))
            continue
        if random.random() < 0.12:
            steps.append(drawn_change(random))
            continue
        if random.random() < 0.25:
            steps.append(drawn_group(random, number))
            continue
        if random.random() < 0.3:
            steps.append(drawn_hold(random, number, steps))
            continue
        if steps and random.random() < 0.2:
            earlier = random.choice(steps)
            if earlier.account_id in ACCOUNTS and not earlier.change_of:
                steps.append(earlier if random.random() < 0.7 else earlier._replace(change=7))
                continue
        amount = random.choice([random.randint(1, 150), AMOUNT_MAX, random.randint(1, AMOUNT_MAX)])
        steps.append(
            Step(random.choice(list(ACCOUNTS)), amount * random.choice([-1, 1]), f"k{number}")
        )
    return steps


def drawn_group(random: Random, number: int) -> Step:
    """Draw a group of one to three transfers, under a key that comes again now and then."""
    transfers = tuple(
        (*random.sample(list(ACCOUNTS), 2), random.choice([random.randint(1, 150), AMOUNT_MAX]))
        for _ in range(random.randint(1, 3))
    )
    return Step("groups", 0, f"g{number - random.choice([0, 0, 0, 9])}", "", transfers)


def drawn_hold(random: Random, number: int, steps: list[Step]) -> Step:
    """Draw a hold, or something to be done to an earlier one, now and then under an earlier key."""
    names = [step.key for step in steps if step.account_id == "hold"]
    if not names or random.random() < 0.4:
        asked = (random.choice(list(ACCOUNTS)), random.randint(1, 150), random.choice([None, "D"]))
        return Step("hold", 0, f"h{number}", hold=asked)
    key = f"e{number - random.choice([0, 0, 0, 5])}"
    amount = random.choice([None, 0, random.randint(1, 90)])
    final = random.choice([None, True]) if amount else None
    return Step("end", 0, key, hold=(random.choice(names), amount, final))


def drawn_change(random: Random) -> Step:
    """Draw a change of an account's limit or of what it is frozen for, or, rarely, its end."""
    account_id, kind = (
        random.choice(list(ACCOUNTS)),
        random.choice(["limit", "frozen"] * 4 + ["close"]),
    )
    if kind == "frozen":
        return Step(account_id, 0, random.choice(FROZEN), kind)
    limit = random.choice([0, random.randint(0, 300), AMOUNT_MAX])
    return Step(account_id, limit, "", kind)


def expected_of(reference: Reference, step: Step) -> str:
    """What the reference answers."""
    if step.transfers:
        return reference.transfer(step.transfers, step.key)
    if step.hold is not None:
        return expected_of_hold(reference, step.account_id, step.key, *step.hold)
    if step.change_of == "limit":
        return reference.limit(step.account_id, step.change)
    if step.change_of == "frozen":
        return reference.freeze(step.account_id, step.key)
    if step.change_of == "close":
        return reference.close(step.account_id)
    return reference.post(step.account_id, step.change, step.key)


def expected_of_hold(
    reference: Reference, what: str, key: str, name: str, amount: int | None, more: Any
) -> str:
    if what == "end":
        return end_in_reference(reference, key, name, amount, more)
    return reference.hold(key, name, amount or 0, more)


def end_in_reference(
    reference: Reference, key: str, name: str, amount: int | None, final: Any
) -> str:
    """What is held under a name that was refused is nothing that can be ended."""
    if name not in reference.holds:
        return "hold_not_found"
    return reference.end(key, name, amount, final=final)


async def take(services: Services, step: Step) -> str:
    """What the service answers."""
    if step.transfers:
        return await post_group(services, step.transfers, step.key)
    if step.hold is not None:
        name, amount, more = step.hold
        if step.account_id == "hold":
            return await place(services, step.key, name, amount or 0, more)
        return await end(services, step.key, name, amount, more)
    if not step.change_of:
        return await post(services, step)
    change = AccountChange(
        credit_limit=DecimalText(str(step.change // 100), f"{step.change % 100:02}")
        if step.change_of == "limit"
        else None,
        frozen=Frozen(step.key) if step.change_of == "frozen" else None,
        closed=step.change_of == "close",
    )
    try:
        await services.ledger.change_account(step.account_id, change)
    except errors.Rejected as error:
        return error.code
    return "done"


async def post(services: Services, step: Step) -> str:
    request = TransactionRequest(
        account_id=step.account_id,
        amount=parse_amount(decimal_text(abs(step.change), 2)),
        direction=Direction.CREDIT if step.change > 0 else Direction.DEBIT,
        idempotency_key=step.key,
    )
    try:
        acceptance = await services.ledger.post_transaction(request)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def post_group(
    services: Services, transfers: tuple[tuple[str, str, int], ...], key: str
) -> str:
    """Send (debit, credit, amount) transfers as a group."""
    requests = [
        TransferRequest(
            debit_account_id=debit,
            credit_account_id=credit,
            amount=parse_amount(decimal_text(amount, 2)),
        )
        for debit, credit, amount in transfers
    ]
    try:
        acceptance = await services.ledger.post_transfers(requests, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


def hold_id_of(name: str) -> UUID:
    """The id a program's client chooses for the hold it places under a name."""
    return uuid5(NAMESPACE_OID, name)


async def place(services: Services, key: str, account_id: str, amount: int, credit: Any) -> str:
    """Hold an amount under a key and an id of its own."""
    request = HoldRequest(
        account_id=account_id,
        amount=parse_amount(decimal_text(amount, 2)),
        credit_account_id=credit,
        hold_id=hold_id_of(key),
    )
    try:
        acceptance = await services.ledger.holds.place(request, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def end(services: Services, key: str, name: str, amount: int | None, final: Any) -> str:
    """Capture, or release where the amount is zero."""
    try:
        if amount == 0:
            acceptance = await services.ledger.holds.release(hold_id_of(name), key)
        else:
            text = None if amount is None else parse_amount(decimal_text(amount, 2))
            request = CaptureRequest(amount=text, final=final)
            acceptance = await services.ledger.holds.capture(hold_id_of(name), request, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def switch(services: Services) -> None:
    """Give the decision to the other side."""
    keeper = pipeline_of(services)._mode
    if keeper.current.mode == "redis":
        keeper._breaker._breaker.open()
        assert await keeper.fall_back(keeper.epoch)
    else:
        assert await keeper.open_redis(keeper.epoch, "test")


async def open_accounts(services: Services, reference: Reference) -> None:
    for account_id, (opening, limit) in ACCOUNTS.items():
        reference.open(account_id, opening, limit)
        await services.ledger.open_account(
            AccountRequest(
                account_id=account_id,
                currency="USD",
                exponent=2,
                opening_minor=opening,
                credit_limit_minor=limit,
            )
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("engine", ["redis", "postgres", "both"])
async def test_every_engine_answers_as_the_reference_does(
    settings: Settings, database: Any, engine: str, seed: int
) -> None:
    random, reference = Random(-seed), Reference()
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings))
        worker: WorkerServices = await stack.enter_async_context(open_worker_services(settings))
        await open_accounts(services, reference)
        if engine == "postgres":
            await switch(services)
        for number, step in enumerate(program(seed)):
            if engine == "both" and random.random() < 0.15:
                await switch(services)
            if not step.account_id:
                await worker.settler.settle()
                reference.settle()
                continue
            expected = expected_of(reference, step)
            assert await take(services, step) == expected, (seed, number, step)
        for account_id, account in reference.accounts.items():
            balance = await services.ledger.balance(account_id)
            assert (balance.available_minor, balance.settled_minor, balance.held_minor) == (
                account.available,
                account.settled,
                reference.held(account_id),
            )
        verification = await services.ledger.verify()
        assert verification.mismatches == ()
    modes = {
        row["mode"]
        for row in await database.fetch("SELECT mode FROM journal_batches WHERE epoch > 0")
    }
    assert modes == ({"redis", "postgres"} if engine == "both" else {"redis", engine} & modes)


async def carried(services: Services, steps: list[Step]) -> list[str]:
    """Carry steps as one batch; returns the answer to each."""
    loop = asyncio.get_running_loop()
    ledger = services.ledger
    items = []
    for step in steps:
        request = TransactionRequest(
            account_id=step.account_id,
            amount=parse_amount(decimal_text(abs(step.change), 2)),
            direction=Direction.CREDIT if step.change > 0 else Direction.DEBIT,
            idempotency_key=step.key,
        )
        account = await ledger._account(step.account_id)
        items.append(
            Item(
                request,
                account,
                loop.time() + 10,
                loop.create_future(),
                pipeline_of(services)._mode.current.postgres,
            )
        )
    slot = Slot(f"test.{steps[0].key}")
    assert await pipeline_of(services).carry(slot, items) == []
    answers = await asyncio.gather(*(item.future for item in items), return_exceptions=True)
    return [
        answer.code if isinstance(answer, errors.LedgerError) else "accepted" for answer in answers
    ]


@pytest.mark.parametrize("seed", SEEDS)
async def test_whole_batches_are_decided_alike(settings: Settings, seed: int) -> None:
    """Of one batch both engines accept and refuse the same items."""
    random = Random(seed)
    steps = [
        Step("A", random.choice([-1, -1, 1]) * random.randint(1, 200), f"m{number}")
        for number in range(60)
    ]
    steps += [Step("C", AMOUNT_MAX, f"n{number}") for number in range(12)]
    random.shuffle(steps)
    seen = {}
    async with open_services(settings) as services:
        for engine in ("redis", "postgres"):
            if engine == "postgres":
                await switch(services)
            for account_id in ("A", "C"):
                opening, limit = ACCOUNTS[account_id]
                request = AccountRequest(
                    account_id=f"{account_id}.{engine}",
                    currency="USD",
                    exponent=2,
                    opening_minor=opening,
                    credit_limit_minor=limit,
                )
                await services.ledger.open_account(request)
            renamed = [
                Step(f"{step.account_id}.{engine}", step.change, f"{engine}.{step.key}")
                for step in steps
            ]
            seen[engine] = await carried(services, renamed)
    assert seen["redis"] == seen["postgres"]
    assert set(seen["redis"]) == {"accepted", "insufficient_available", "balance_limit_exceeded"}
