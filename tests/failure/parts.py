"""How the tests of parts send bulk requests, and what they compare of the answers."""

import asyncio
import random
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services
from app.ledger.model import Acceptance, TransactionRequest
from tests.conftest import eventually
from tests.failure.conftest import records, reservations
from tests.failure.interruptions import held_before_its_journal
from tests.integration.test_transactions import request

BULK = "/api/v1/transactions"
# What only the journal call of a request whose key is "part" carries on the wire.
JOURNAL = b"key:part"


async def send(
    services: Services, *asked: TransactionRequest, key: str | None = "part", atomic: bool = False
) -> list[Any]:
    return await services.ledger.post_transactions(asked, key, atomic=atomic)


async def sent_twice(
    services: Services,
    other: Services,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    *asked: TransactionRequest,
    atomic: bool = False,
) -> list[list[Any]]:
    """Send one request to two instances, the second while the first has reserved and is held."""
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(send(services, *asked, atomic=atomic))
        await eventually(lambda: reservations(redis_client))
        second = asyncio.create_task(send(other, *asked, atomic=atomic))
        await asyncio.wait([second], timeout=0.5)
        go_on()
        return await asyncio.gather(first, second)


def said(answers: list[Any]) -> list[Any]:
    """What a client is told of each item, whether it is told for the first time or again."""
    return [
        (each.code, each.members)
        if isinstance(each, errors.LedgerError)
        else (each.transaction.transaction_id, each.transaction.account.account_id,
              each.transaction.change_minor, each.transaction.mode, each.transaction.accepted_at)
        for each in answers
    ]  # fmt: skip


def codes(answers: list[Any]) -> list[str]:
    return ["accepted" if isinstance(each, Acceptance) else each.code for each in answers]


async def entries(database: Any) -> int:
    """Movements that are no openings."""
    return await database.fetchval(
        "SELECT count(*) FROM journal_entries WHERE reference IS DISTINCT FROM 'opening balance'"
    )


async def settled_down(services: Services, redis_client: Any) -> None:
    """Nothing is in flight, and Redis and PostgreSQL agree on everything."""
    await eventually(lambda: not records(redis_client))
    verification = await services.ledger.verify()
    assert verification.is_clean, verification.mismatches


def mixed(random_numbers: random.Random, count: int) -> list[TransactionRequest]:
    """Debits and credits on rich, poor and unknown accounts, in any order."""
    return [
        request(
            random_numbers.choice("ABCDXY"),
            str(random_numbers.randint(1, 6)),
            random_numbers.choice(("debit", "debit", "credit")),
            reference=random_numbers.choice((None, "rent")),
            metadata=random_numbers.choice((None, {"b": "1", "a": "2"})),
        )
        for _ in range(count)
    ]


def body(*items: tuple[str, str], atomic: bool = False, **more: Any) -> dict[str, Any]:
    rows = [
        {"account_id": name, "amount": amount, "type": "debit", **more} for name, amount in items
    ]
    return {"transactions": rows, "atomic": atomic}
