"""One suite, three engines: Redis, PostgreSQL and the reference model decide alike.

The same random programs of postings and changes of accounts run through the whole service in mode
`redis`, in mode `postgres`, and in one that is switched between the two at random; every answer and
balance must be the reference's.
"""

import asyncio
from random import Random
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.kit.money import decimal_text, parse_amount
from app.ledger.admission import Slot
from app.ledger.codes import Direction
from app.ledger.item import Item
from app.ledger.model import AccountRequest, TransactionRequest
from app.settings import Settings
from tests.conformance.engines import switch
from tests.conformance.programs import ACCOUNTS, Step
from tests.conformance.reference import AMOUNT_MAX
from tests.conformance.running import Programs
from tests.failure.conftest import pipeline_of

SEEDS = (1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("engine", ["redis", "postgres", "both"])
async def test_every_engine_answers_as_the_reference_does(
    settings: Settings, database: Any, engine: str, seed: int
) -> None:
    async with Programs.on(settings, engine) as programs:
        reference = await programs.run(seed)
        await programs.worker.settler.settle()
        reference.settle()
        for account_id, account in reference.accounts.items():
            balance = await programs.services.ledger.balance(account_id)
            assert balance.settled_minor == account.settled
        verification = await programs.services.ledger.verify()
        assert verification.mismatches == ()
    modes = {
        row["mode"]
        for row in await database.fetch("SELECT mode FROM journal_batches WHERE epoch > 0")
    }
    assert modes == ({"redis", "postgres"} if engine == "both" else {"redis", engine} & modes)


async def test_programs_at_once_do_not_disturb_each_other(settings: Settings) -> None:
    async with Programs.on(settings, "both", switches=0.02) as programs:
        async with asyncio.TaskGroup() as group:
            for seed in range(11, 19):
                group.create_task(programs.run(seed, 40, f"p{seed}."))
        assert (await programs.services.ledger.verify()).mismatches == ()
    assert {
        "accepted",
        "replayed",
        "version_mismatch",
        "already_reversed",
    } <= programs.answers.keys()


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
