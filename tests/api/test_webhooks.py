"""`/api/v1/webhooks`: made, signed, told in order, given up, told again, and refused."""

import asyncio
import base64
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app import limits
from app.bootstrap import WorkerServices
from app.settings import Settings
from tests.api.test_holds import act, hold
from tests.api.test_transactions import opened, sent, told
from tests.conftest import eventually
from tests.receiver import (
    WEBHOOKS,
    Message,
    Receiver,
    all_events,
    is_signed,
    receiving,
    telling,
    telling_here,
    webhook,
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return telling_here(settings, webhook_dead_max=3)


@pytest.fixture
async def receiver() -> Any:
    async with receiving() as receiver:
        yield receiver


async def deliveries(api: httpx.AsyncClient, made: dict[str, Any], **asked: Any) -> list[Any]:
    answer = await api.get(f"{WEBHOOKS}/{made['webhook_id']}/deliveries", params=asked)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["deliveries"]
    return found


async def state_of(api: httpx.AsyncClient, made: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = (await api.get(f"{WEBHOOKS}/{made['webhook_id']}")).json()
    return state


async def test_a_webhook_is_told_what_happens_after_it_was_made(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    before = await all_events(api)
    made = await webhook(api, receiver.url("/a?b=c"))
    await sent(api)
    await hold(api)
    await worker.settler.settle()
    told = (await all_events(api))[len(before) :]
    async with telling(worker):
        await eventually(lambda: len(receiver.taken) >= len(told))
        await eventually(lambda: deliveries(api, made))
    assert [message.event for message in receiver.taken] == told
    assert {message.path for message in receiver.taken} == {"/a?b=c"}
    for message in receiver.taken:
        assert is_signed(message, made["secret"])
        assert not is_signed(message._replace(body=message.body + b" "), made["secret"])
        assert message.headers["content-type"] == "application/json"
        assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    rows = await deliveries(api, made)
    assert [row["event_id"] for row in reversed(rows)] == [event["id"] for event in told]
    assert {(row["status"], row["tries"], row["http_status"]) for row in rows} == {
        ("delivered", 1, 200)
    }


async def test_a_webhook_may_want_some_types_and_one_account(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    await opened(api, "B")
    await webhook(api, receiver.url("/holds"), types=["hold.placed", "hold.captured"])
    await webhook(api, receiver.url("/b"), account_id="B")
    placed = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, placed, "capture")
    await sent(api, account_id="B")
    async with telling(worker):
        await eventually(lambda: len(receiver.taken) >= 4)
    found = {(each.path, each.event["type"], each.event["account_id"]) for each in receiver.taken}
    assert found == {
        ("/holds", "hold.placed", "A"),
        ("/holds", "hold.captured", "A"),
        ("/b", "transaction.accepted", "B"),
    }


async def test_a_secret_is_shown_once_and_may_be_chosen(
    api: httpx.AsyncClient, receiver: Receiver
) -> None:
    chosen = "whsec_" + base64.b64encode(b"s" * 32).decode()
    made = await webhook(api, receiver.url(), secret=chosen)
    own = await webhook(api, receiver.url())
    assert made["secret"] == chosen
    assert own["secret"].startswith("whsec_")
    listed = await api.get(WEBHOOKS)
    assert [each["webhook_id"] for each in listed.json()["webhooks"]] == [
        made["webhook_id"],
        own["webhook_id"],
    ]
    assert "secret" not in (await state_of(api, made))
    assert chosen not in listed.text


async def test_what_fails_is_tried_again_until_it_is_taken_and_nothing_overtakes(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    made = await webhook(api, receiver.url())
    for number in range(3):
        await sent(api, amount=str(number + 1))
    answers: dict[str, list[int | None]] = {}
    ways: list[list[int | None]] = [[500, 0, 200], [None, 302, 200], [400, 200]]

    def behave(message: Message) -> int | None:
        if message.event_id not in answers:
            answers[message.event_id] = ways[len(answers)]
        return answers[message.event_id].pop(0)

    receiver.behave = behave
    receiver.extra = f"location: {receiver.url('/elsewhere')}\r\n"
    async with telling(worker):
        await eventually(lambda: len(receiver.taken) == 3)
        await eventually(lambda: deliveries(api, made))
    assert [each.event["data"]["amount"] for each in receiver.taken] == ["1.00", "2.00", "3.00"]
    assert {each.path for each in receiver.messages} == {"/hook"}
    rows = await deliveries(api, made)
    assert [row["tries"] for row in reversed(rows)] == [3, 3, 2]


async def test_what_is_given_up_is_a_dead_letter_and_the_rest_goes_on(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    made = await webhook(api, receiver.url())
    for number in range(3):
        await sent(api, amount=str(number + 1))
    receiver.behave = lambda message: 500 if message.event["data"]["amount"] == "2.00" else 200
    async with telling(worker):
        await eventually(lambda: len(receiver.taken) == 2)
        await eventually(lambda: deliveries(api, made, status="dead"))
        (dead,) = await deliveries(api, made, status="dead")
        told = await all_events(api)
        assert dead["event_id"] == told[2]["id"]
        assert (dead["tries"], dead["http_status"], dead["detail"]) == (4, 500, "it answered 500")
        assert len(await deliveries(api, made, status="delivered")) == 2
        assert (await state_of(api, made))["status"] == "enabled"

        receiver.behave = lambda _message: 200
        before = len(receiver.taken)
        answer = await api.post(
            f"{WEBHOOKS}/{made['webhook_id']}/replay", json={"from": told[1]["sequence"]}
        )
        assert answer.status_code == 200
        await eventually(lambda: len(receiver.taken) == before + 2)
    assert [each.event for each in receiver.taken[before:]] == told[2:]


async def test_a_webhook_is_told_again_from_an_instant(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    await sent(api)
    told = await all_events(api)
    made = await webhook(api, receiver.url())
    at = told[1]["occurred_at"]
    await api.post(f"{WEBHOOKS}/{made['webhook_id']}/replay", json={"from": at})
    async with telling(worker):
        await eventually(lambda: receiver.taken)
    assert [each.event for each in receiver.taken] == told[1:]


async def test_one_that_fails_for_long_is_disabled_and_goes_on_from_its_cursor(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    made = await webhook(api, receiver.url())
    for number in range(5):
        await sent(api, amount=str(number + 1))
    receiver.behave = lambda _message: 500

    async def is_disabled() -> bool:
        return (await state_of(api, made))["status"] == "disabled"

    async with telling(worker):
        await eventually(is_disabled)
        reason = (await state_of(api, made))["reason"]
        assert reason == "3 events in a row were not taken: it answered 500"
        assert len(await deliveries(api, made, status="dead")) == 3
        count = len(receiver.messages)
        assert count == 3 * 4

        receiver.behave = lambda _message: 200
        path = f"{WEBHOOKS}/{made['webhook_id']}"
        assert (await api.patch(path, json={"enabled": True})).json()["reason"] is None
        await eventually(lambda: len(receiver.taken) == 5)
    assert [each.event for each in receiver.taken] == (await all_events(api))[1:]


async def test_one_that_says_it_is_gone_is_disabled_at_once(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    made = await webhook(api, receiver.url())
    await sent(api)
    receiver.behave = lambda _message: 410

    async def is_disabled() -> bool:
        return (await state_of(api, made))["reason"] == "it answered 410 Gone"

    async with telling(worker):
        await eventually(is_disabled)
    assert len(receiver.messages) == 1


async def test_one_that_is_disabled_or_removed_is_told_no_more(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    off, gone, on = [await webhook(api, receiver.url(f"/{name}")) for name in ("a", "b", "c")]
    path = f"{WEBHOOKS}/{off['webhook_id']}"
    assert (await api.patch(path, json={"enabled": False})).json()["status"] == "disabled"
    removed = await api.delete(f"{WEBHOOKS}/{gone['webhook_id']}")
    assert (removed.status_code, removed.json()["url"]) == (200, receiver.url("/b"))
    await sent(api)
    async with telling(worker):
        await eventually(lambda: deliveries(api, on))
    assert {each.path for each in receiver.messages} == {"/c"}
    async with telling(worker):
        await api.patch(path, json={"enabled": True})
        await eventually(lambda: receiver.ids(path="/a"))
    again = await api.delete(f"{WEBHOOKS}/{gone['webhook_id']}")
    assert (again.status_code, again.json()["code"]) == (404, "webhook_not_found")


async def test_a_webhook_can_be_removed_while_it_hangs(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver
) -> None:
    await opened(api)
    made = await webhook(api, receiver.url())
    receiver.behave = lambda _message: None
    await sent(api)
    async with telling(worker):
        await eventually(lambda: receiver.messages)
        assert (await api.delete(f"{WEBHOOKS}/{made['webhook_id']}")).status_code == 200
        await eventually(lambda: not worker.webhooks._tasks)
    count = len(receiver.messages)
    await sent(api)
    async with telling(worker):
        await asyncio.wait_for(worker.webhooks._look(), 5)
    assert len(receiver.messages) == count


async def test_there_are_no_more_than_so_many(
    api: httpx.AsyncClient, receiver: Receiver, database: Any
) -> None:
    await database.execute(
        "SELECT add_webhook_v1(gen_random_uuid(), 'http://x', 's', NULL, NULL, 1000)"
        " FROM generate_series(2, $1)",
        limits.WEBHOOKS_MAX,
    )
    bodies = [{"url": receiver.url(f"/{number}")} for number in range(4)]
    answers = await asyncio.gather(*(api.post(WEBHOOKS, json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "too_many_webhooks"


async def test_old_deliveries_are_forgotten_and_some_are_kept(
    api: httpx.AsyncClient, worker: WorkerServices, receiver: Receiver, database: Any
) -> None:
    made = await webhook(api, receiver.url())
    await database.execute(
        """
        INSERT INTO webhook_deliveries (webhook_no, status, event_id, event_type, account_id,
                                        sequence, tries, ended_at)
        SELECT webhook_no, CASE WHEN n % 2 = 0 THEN 'dead' ELSE 'delivered' END, n::text, 't', 'A',
               's', 1, now()
          FROM webhooks, generate_series(1, 4000) AS n
        """
    )
    await worker.webhooks._store.forget_deliveries()
    kept = await database.fetch(
        "SELECT status, count(*), min(event_id::int) FROM webhook_deliveries GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in kept] == [
        ("dead", 2000, 2),
        ("delivered", limits.DELIVERED_KEPT, 4001 - 2 * limits.DELIVERED_KEPT),
    ]
    pages = await api.get(f"{WEBHOOKS}/{made['webhook_id']}/deliveries", params={"limit": 1})
    cursor = pages.json()["next_cursor"]
    second = await deliveries(api, made, limit=1, cursor=cursor)
    assert (pages.json()["deliveries"][0]["event_id"], second[0]["event_id"]) == ("4000", "3999")


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({}, 400, "missing_field", "/url"),
        ({"url": 1}, 400, "wrong_type", "/url"),
        ({"url": "http://127.0.0.1", "more": 1}, 400, "unknown_field", "/more"),
        ({"url": "http://127.0.0.1", "types": []}, 400, "invalid_value", "/types"),
        ({"url": "http://127.0.0.1", "types": ["x"]}, 400, "invalid_value", "/types/0"),
        (
            {"url": "http://127.0.0.1", "types": ["hold.placed"] * 2},
            400,
            "invalid_value",
            "/types",
        ),
        ({"url": "http://127.0.0.1", "secret": "x"}, 400, "invalid_value", "/secret"),
        ({"url": "http://127.0.0.1", "secret": "whsec_AAAA"}, 400, "invalid_value", "/secret"),
        ({"url": "http://127.0.0.1", "secret": "whsec_\u00e9"}, 400, "invalid_value", "/secret"),
        ({"url": "http://127.0.0.1", "account_id": "N"}, 404, "account_not_found", "/account_id"),
        (
            {"url": "http://127.0.0.1", "account_id": "external:USD"},
            422,
            "account_reserved",
            "/account_id",
        ),
        ({"url": "ftp://127.0.0.1"}, 422, "webhook_url_refused", "/url"),
        ({"url": "http://nobody.invalid/"}, 422, "webhook_url_refused", "/url"),
    ],
)
async def test_a_webhook_that_makes_no_sense_is_refused(
    api: httpx.AsyncClient,
    database: Any,
    body: dict[str, Any],
    status: int,
    code: str,
    pointer: str,
) -> None:
    answer = await api.post(WEBHOOKS, json=body)
    assert told(answer) == (status, code, pointer)
    assert await database.fetchval("SELECT count(*) FROM webhooks") == 0
    assert await database.fetchval("SELECT count(*) FROM event_cursors") == 2


@pytest.mark.parametrize(
    ("sent_from", "code"),
    [
        ("", "invalid_cursor"),
        ("yesterday", "invalid_cursor"),
        ("2026-01-01T00:00:00", "invalid_value"),
        ("2026-13-01T00:00:00Z", "invalid_value"),
        ("9999-99-99T", "invalid_value"),
        ("T" * 10_000, "invalid_value"),
        ("0" * 16, "invalid_cursor"),
        ("2099-01-01T00:00:00Z", "instant_in_future"),
        ("4070908800000000-0-000000000000000001-000001", "instant_in_future"),
    ],
)
async def test_a_replay_from_nowhere_is_refused(
    api: httpx.AsyncClient, receiver: Receiver, sent_from: str, code: str
) -> None:
    made = await webhook(api, receiver.url())
    answer = await api.post(f"{WEBHOOKS}/{made['webhook_id']}/replay", json={"from": sent_from})
    status = 422 if code == "instant_in_future" else 400
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["pointer"] == "/from"
    assert (await state_of(api, made))["cursor"] == made["cursor"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"enabled": True}),
        ("DELETE", "", None),
        ("GET", "/deliveries", None),
        ("POST", "/replay", {"from": "2026-01-01T00:00:00Z"}),
    ],
)
async def test_an_unknown_webhook_is_not_found(
    api: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    answer = await api.request(method, f"{WEBHOOKS}/{uuid4()}{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "webhook_not_found")
    malformed = await api.request(method, f"{WEBHOOKS}/x{path}", json=body)
    assert (malformed.status_code, malformed.json()["code"]) == (400, "invalid_parameter")
