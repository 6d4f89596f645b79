"""Conditional transactions at once, from several instances, across switches and lost replies."""

import asyncio
import itertools
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.kit.money import parse_amount
from app.ledger.codes import Direction, Mode
from app.ledger.model import Expectation, TransactionRequest
from tests.conftest import OpenAccount
from tests.failure.modes import rule_by
from tests.failure.parts import settled_down

MODES = pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])


def debit(version: int, key: str | None = None) -> TransactionRequest:
    return TransactionRequest(
        account_id="A",
        amount=parse_amount("1"),
        direction=Direction.DEBIT,
        idempotency_key=key,
        expect=Expectation(version=version),
    )


async def posted(services: Services, version: int) -> bool:
    """Whether a debit that expects a version is accepted."""
    try:
        await services.ledger.post_transaction(debit(version))
    except errors.VersionMismatch:
        return False
    return True


@MODES
async def test_each_version_is_good_for_one_transaction(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    mode: Mode,
) -> None:
    """Eight clients of two instances read and write as fast as they can, while it is settled."""
    await open_account("A", "1000")
    for instance in (services, other):
        await rule_by(instance, database, mode)
    won: list[int] = []

    async def client(instance: Services) -> None:
        for _ in range(15):
            version = (await instance.ledger.balance("A")).version
            if await posted(instance, version):
                won.append(version)

    async def settling() -> None:
        for _ in range(5):
            await worker.settler.settle()

    instances = itertools.islice(itertools.cycle((services, other)), 8)
    await asyncio.gather(*map(client, instances), settling())
    assert len(set(won)) == len(won) > 0
    assert sorted(won) == list(range(1, len(won) + 1))
    assert (await services.ledger.balance("A")).version == len(won) + 1
    await settled_down(services, redis_client)


@MODES
async def test_a_version_lives_through_a_switch_and_a_flush(
    services: Services, open_account: OpenAccount, database: Any, redis_client: Any, mode: Mode
) -> None:
    await open_account("A", "1000")
    for _ in range(3):
        await services.ledger.post_transaction(debit((await services.ledger.balance("A")).version))
    redis_client.flushall()
    await rule_by(services, database, mode)
    assert not await posted(services, 3)
    assert await posted(services, 4)
    assert (await services.ledger.balance("A")).version == 5


@MODES
async def test_what_was_given_back_counts_for_no_version(
    services: Services, open_account: OpenAccount, database: Any, redis_client: Any, mode: Mode
) -> None:
    """A repetition is reserved once more and given back; it was one entry."""
    await open_account("A", "1000")
    await rule_by(services, database, mode)
    request = debit(1, key="k")
    await services.ledger.post_transaction(request)
    plain = TransactionRequest(
        account_id="A", amount=parse_amount("1"), direction=Direction.DEBIT, idempotency_key="k"
    )
    again = await asyncio.gather(*(services.ledger.post_transaction(plain) for _ in range(5)))
    assert all(each.replayed for each in again)
    await settled_down(services, redis_client)
    assert await posted(services, 2)
    assert (await services.ledger.verify()).mismatches == ()
