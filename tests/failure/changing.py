"""Changes of accounts in tests of faults: asked for, interrupted, and what Redis shows of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.bootstrap import Services
from app.kit.money import DecimalText
from app.ledger.codes import Frozen, Mode
from app.ledger.model import AccountChange, AccountDetails
from tests.failure.conftest import account_fields, pipeline_of, records
from tests.failure.interruptions import Died
from tests.failure.modes import rule_by
from tests.integration.test_transactions import outcomes, request

STOPPED = "changing "


async def tried(services: Services, amount: str, direction: str = "debit") -> Any:
    """Post; returns the acceptance or the error."""
    (result,) = await outcomes(services, [request("A", amount, direction)])
    return result


async def frozen(services: Services, kind: str = "debit", account_id: str = "A") -> AccountDetails:
    return await services.ledger.change_account(account_id, AccountChange(frozen=Frozen(kind)))


async def limited(services: Services, limit: str, account_id: str = "A") -> AccountDetails:
    whole, _, fraction = limit.partition(".")
    change = AccountChange(credit_limit=DecimalText(whole, fraction))
    return await services.ledger.change_account(account_id, change)


async def closed(services: Services, account_id: str = "A") -> AccountDetails:
    return await services.ledger.change_account(account_id, AccountChange(closed=True))


def stop_of(redis_client: Any, account_id: str = "A") -> str:
    """What Redis has an account stopped for."""
    return account_fields(redis_client, account_id)["stop"]


def is_stopped(redis_client: Any) -> bool:
    """Tell whether a change keeps the account A still."""
    return bool(redis_client.keys("subbalance:*:account:A")) and stop_of(redis_client).startswith(
        STOPPED
    )


def changes_left(redis_client: Any) -> int:
    """How many changes are under way according to Redis."""
    return sum(record.is_change for record in records(redis_client))


def before_its(
    services: Services,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[], Awaitable[None]],
) -> None:
    """Let something happen before a step of an instance's next change: `_drained`, ..."""
    changes = services.ledger._changes
    take = getattr(changes, step)

    async def wait_and_take(*arguments: Any) -> Any:
        monkeypatch.setattr(changes, step, take)
        await happens()
        return await take(*arguments)

    monkeypatch.setattr(changes, step, wait_and_take)


def held_before_its(
    services: Services, step: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold an instance's next change before a step: the events of its coming there and going on."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await may_go_on.wait()

    before_its(services, step, monkeypatch, hold)
    return reached, may_go_on


async def died_before_its(
    services: Services, step: str, monkeypatch: pytest.MonkeyPatch, kind: str = "debit"
) -> None:
    """Freeze an account by an instance that ends before a step, and tells nobody."""
    changes = services.ledger._changes

    async def die(*_arguments: Any) -> None:
        raise Died

    async def untold(*_arguments: Any) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(changes, step, die)
        patched.setattr(changes, "_undo", untold)
        with pytest.raises(Died):
            await frozen(services, kind)


async def rule_all_by(mode: Mode, database: Any, first: Services, *others: Services) -> None:
    """Let Redis or PostgreSQL decide, and every instance know."""
    await rule_by(first, database, mode)
    await asyncio.gather(*(pipeline_of(each)._mode.learn() for each in others))
