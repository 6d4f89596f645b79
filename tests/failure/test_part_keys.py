"""One key names one bulk request, whoever sends it, in whatever parts, and whoever decides."""

from typing import Any

import pytest

from app import errors, limits
from app.bootstrap import Services
from app.ledger.codes import Mode
from tests.conftest import OpenAccount
from tests.failure.modes import rule_by
from tests.failure.parts import codes, entries, said, send, sent_twice, settled_down
from tests.integration.test_transactions import request

# Two sendings of one request to two instances.


async def test_a_second_sending_is_not_refused_for_what_the_first_has_reserved(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    answers = await sent_twice(services, other, redis_client, monkeypatch, request("A", "10"))
    assert said(answers[0]) == said(answers[1])
    assert [codes(each) for each in answers] == [["accepted"], ["accepted"]]
    await settled_down(services, redis_client)


async def test_a_second_sending_remembers_no_refusal_that_only_the_first_caused(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first has reserved everything; there is enough for either sending, not for both."""
    await open_account("A", "10.00")
    await open_account("B", "10.00")
    asked = (request("A", "6"), request("B", "1"))
    answers = await sent_twice(services, other, redis_client, monkeypatch, *asked)
    assert [codes(each) for each in answers] == [["accepted"] * 2] * 2
    assert said(answers[0]) == said(answers[1])
    await settled_down(services, redis_client)


# One key names one request.


async def test_a_longer_request_under_a_used_key_moves_nothing(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * limits.BATCH_ITEMS_MAX
    await send(services, *asked)
    again = await send(services, *asked, request("A", "1"))
    assert set(codes(again)) == {"idempotency_key_reused"}
    assert await entries(database) == limits.BATCH_ITEMS_MAX


async def test_a_shorter_request_under_a_used_key_is_no_repetition(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * limits.BATCH_ITEMS_MAX
    await send(services, *asked, request("A", "1"))
    assert set(codes(await send(services, *asked))) == {"idempotency_key_reused"}


async def test_an_atomic_request_is_not_repeated_in_parts(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """The same items, the same key, and only `atomic` differs: nothing may move again."""
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * (limits.BATCH_ITEMS_MAX + 500)
    await send(services, *asked, atomic=True)
    again = await send(services, *asked)
    assert (await services.ledger.balance("A")).available_minor == 500_000 - 100 * len(asked)
    assert set(codes(again)) == {"idempotency_key_reused"}


async def test_a_key_of_a_single_transaction_moves_nothing_more_in_a_long_request(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "5000.00")
    await services.ledger.post_transaction(request("A", "1", idempotency_key="part"))
    answers = await send(services, *[request("A", "1")] * (limits.BATCH_ITEMS_MAX + 1))
    assert set(codes(answers)) == {"idempotency_key_reused"}
    assert await entries(database) == 1


async def test_a_request_whose_first_part_was_refused_still_has_its_key(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """All of the first thousand is refused, and the rest accepted: the key is used."""
    await open_account("A", "0")
    await open_account("B", "10.00")
    asked = [*[request("A", "1")] * limits.BATCH_ITEMS_MAX, request("B", "1")]
    assert codes(await send(services, *asked))[-1] == "accepted"
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(request("B", "2", idempotency_key="part"))
    assert await entries(database) == 1


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_a_single_transaction_cannot_take_the_key_of_a_request(
    services: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await open_account("A", "10.00")
    await send(services, request("A", "1"))
    await rule_by(services, database, mode)
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(request("A", "1", idempotency_key="part"))
    assert (await services.ledger.balance("A")).available_minor == 900


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_an_item_of_an_atomic_request_cannot_take_the_key_of_a_request(
    services: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await open_account("A", "10.00")
    await send(services, request("A", "1"))
    await rule_by(services, database, mode)
    asked = [request("A", "1", idempotency_key=name) for name in ("part", "x")]
    answers = await send(services, *asked, key=None, atomic=True)
    assert codes(answers) == ["idempotency_key_reused", "others_refused"]
    assert (await services.ledger.balance("A")).available_minor == 900
