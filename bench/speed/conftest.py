"""Requests, items, and private durable servers on which the service's own calls are sent again."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from app.kit.money import parse_amount
from app.ledger.codes import Direction
from app.ledger.item import Item
from app.ledger.model import Account, TransactionRequest
from app.settings import Settings, load_settings
from bench.compare.bodies import AMOUNT, account_id
from bench.compare.contestants import open_accounts
from bench.compare.recording import Recording, record
from bench.compare.stage import Stage, open_stage

SIZES = (1, 80, 1_000)
ACCOUNTS = 5
_RECORDED = 1
_SETTLEMENT_S = 3_600.0
_DEADLINE_S = 60.0


class Servers(NamedTuple):
    """The stage, and the settings of a service on it."""

    stage: Stage
    settings: Settings


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A Redis and a PostgreSQL with the schema and a few accounts."""
    with open_stage(_SETTLEMENT_S) as stage:
        open_accounts(stage, ACCOUNTS)
        database = stage.database_url(stage.schema_database)
        urls = {"DATABASE_URL": database, "REDIS_URL": stage.own_redis()}
        yield Servers(stage, load_settings({**stage.service_settings, **urls}))


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} items")
def size(request: pytest.FixtureRequest) -> int:
    """How many items a batch has."""
    return int(request.param)


@pytest.fixture
def recording(servers: Servers, size: int) -> Recording:
    """What the service sends for a batch of that size."""
    return servers.stage.wait(record(servers.settings, ACCOUNTS, size, _RECORDED, "item"))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs only when told."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def make_items(loop: asyncio.AbstractEventLoop) -> Callable[[int], list[Item]]:
    """Make the items of a batch, each with its account, its key and a future of the loop."""

    def make(count: int) -> list[Item]:
        accounts = [Account(number + 1, account_id(number), "USD", 2) for number in range(ACCOUNTS)]
        return [
            Item(
                transaction_request(accounts[number % ACCOUNTS].account_id, f"key-{number}"),
                accounts[number % ACCOUNTS],
                loop.time() + _DEADLINE_S,
                loop.create_future(),
                "postgres",
            )
            for number in range(count)
        ]

    return make


def transaction_request(name: str, key: str) -> TransactionRequest:
    """A checked request to debit a cent."""
    return TransactionRequest(
        account_id=name,
        amount=parse_amount(AMOUNT),
        direction=Direction.DEBIT,
        idempotency_key=key,
    )


def per_item(benchmark: Any, count: int) -> None:
    """Note how many items a call has, so that the saved figures say what they are of."""
    benchmark.extra_info["items"] = count
