"""Redis learns of journaled debits with the slot's next admission, or soon without one."""

from collections.abc import Sequence
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.infra.scripts import LuaScripts
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, account_fields, account_key, records, reservations
from tests.failure.proxy import ADMIT, CONFIRM
from tests.integration.test_transactions import outcomes, request


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the money scripts as they are called."""
    names: list[str] = []
    call = LuaScripts.call

    async def noted(
        scripts: LuaScripts, name: str, keys: Sequence[str], arguments: Sequence[str]
    ) -> Any:
        names.extend({name} & {"admit", "confirm"})
        return await call(scripts, name, keys, arguments)

    monkeypatch.setattr(LuaScripts, "call", noted)
    return names


async def test_debits_are_confirmed_by_the_next_admission(
    services: Services, open_account: OpenAccount, redis_client: Any, calls: list[str]
) -> None:
    await open_account("A", "10.00")
    for _ in range(2):  # the first call loads the account and admits again
        await services.ledger.post_transaction(request("A", "1"))
    assert calls == ["admit", "admit", "admit"]
    assert len(records(redis_client)) == 1
    await eventually(lambda: not reservations(redis_client))
    assert calls == ["admit", "admit", "admit", "confirm"]
    fields = redis_client.hgetall(account_key(redis_client))
    assert (fields["available"], fields["pending_debit"]) == ("800", "200")


async def test_a_credit_that_follows_is_confirmed_by_itself(
    services: Services, open_account: OpenAccount, redis_client: Any, calls: list[str]
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await services.ledger.post_transaction(request("A", "3", "credit"))
    assert calls == ["admit", "admit", "admit", "confirm"]
    assert not reservations(redis_client)


async def test_names_that_were_refused_are_in_flight_no_longer_than_their_batch(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    """Another instance would take a refused request for one that is still being decided."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await eventually(lambda: not records(redis_client))
    batch = [request("A", "2"), request("A", "9", idempotency_key="refused")]
    accepted, refused = await outcomes(services, batch)
    assert isinstance(refused, errors.InsufficientAvailable)
    assert not accepted.replayed
    assert not any("0:key:refused" in record.names for record in records(redis_client))


async def test_nothing_is_left_to_tell_when_a_service_has_stopped(
    settings: Settings, services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    async with open_services(settings) as another:
        await another.ledger.post_transaction(request("A", "1"))
    assert not reservations(redis_client)
    assert (await services.ledger.balance("A")).available_minor == 900


@pytest.mark.parametrize("marker", [ADMIT, CONFIRM], ids=["admission", "own_call"])
async def test_debits_are_told_although_the_reply_is_lost(
    behind: Behind, redis_client: Any, marker: bytes
) -> None:
    ledger = behind.services.ledger
    await ledger.post_transaction(request("A", "1"))
    behind.redis.lose_reply_to(marker)
    await ledger.post_transaction(request("A", "2"))
    await eventually(lambda: behind.redis.lost_count == 1 and not reservations(redis_client))
    fields = account_fields(redis_client)
    assert (fields["available"], fields["pending_debit"]) == ("700", "350")
