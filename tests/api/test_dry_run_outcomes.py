"""A dry run and then the real thing: the same outcome, whoever decides, and nothing changed by the
first.
"""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import msgspec
import pytest

from app.ledger.codes import Mode
from app.settings import Settings
from tests.api.test_dry_run import books
from tests.api.test_transactions import available, opened, told
from tests.conftest import eventually, serving
from tests.integration.test_controls import CONTROL

BULK, HOLDS, ACCOUNTS = "/api/v1/transactions", "/api/v1/holds", "/api/v1/accounts"
_PROBE = "probe"


class Asked(NamedTuple):
    """One request, twice: what would happen, and what did."""

    foreseen: dict[str, Any]
    real: dict[str, Any]


class Stand:
    """A service under one who decides, and a look at everything it writes."""

    def __init__(self, api: httpx.AsyncClient, database: Any, redis: Any) -> None:
        self.api = api
        self._database = database
        self._redis = redis

    async def everything(self) -> dict[str, Any]:
        """All rows and all keys, as soon as nothing is in flight."""
        await eventually(lambda: not self._redis.keys("*:flight"))
        keys = [key for key in self._redis.scan_iter() if not key.endswith(_PROBE)]
        return await books(self._database) | {key: self._redis.hgetall(key) for key in keys}

    async def ask(
        self,
        path: str,
        body: Any,
        key: str | None = None,
        method: str = "POST",
        **headers: str,
    ) -> Asked:
        """Ask what would happen, see that nothing did, do it, and compare."""
        if key is not None:
            headers["idempotency-key"] = key
        before = await self.everything()
        query = {"dry_run": "true"}
        dry = await self.api.request(method, path, json=body, headers=headers, params=query)
        assert await self.everything() == before
        real = await self.api.request(method, path, json=body, headers=headers)
        foreseen, done = dry.json(), real.json()
        if real.status_code >= 400:
            assert told(dry) == told(real)
            assert {**foreseen, "request_id": ""} == {**done, "request_id": ""}
            return Asked(foreseen, done)
        assert (dry.status_code, foreseen["dry_run"]) == (200, True)
        for account in foreseen["accounts"]:
            has = await available(self.api, account["account_id"])
            assert account["available_balance"] == has, account
        return Asked(foreseen, done)


@pytest.fixture(params=[Mode.REDIS, Mode.POSTGRES])
async def stand(
    settings: Settings, database: Any, redis_client: Any, request: pytest.FixtureRequest
) -> AsyncIterator[Stand]:
    async with serving(settings) as api:
        if request.param is Mode.POSTGRES:
            await database.execute(CONTROL, "force_postgres")

        async def decides() -> bool:
            return bool((await api.get("/health")).json()["mode"] == request.param)

        await eventually(decides)
        await opened(api)
        await opened(api, "B", opening_balance="0")
        yield Stand(api, database, redis_client)


def item(amount: str, kind: str = "debit", **fields: Any) -> dict[str, Any]:
    return {"account_id": "A", "amount": amount, "type": kind, **fields}


def outcomes(answer: dict[str, Any]) -> list[tuple[str, bool, Any]]:
    """What became of each of many: accepted or the code, whether replayed, and the figures."""
    return [
        ("accepted", result.get("replayed", False), None)
        if result["success"]
        else (result["problem"]["code"], False, result["problem"].get("available"))
        for result in answer["results"]
    ]


BULKS = {
    "some are refused": [item("60"), item("60"), item("0"), item("1", account_id="nobody")],
    "a credit funds a later debit": [item("50", "credit"), item("120"), item("40"), item("20")],
    "a credit comes too late": [item("120"), item("50", "credit")],
    "an expectation is met by a credit": [
        item("50", "credit"),
        item("1", expect={"available_at_least": "150"}),
        item("1", expect={"available_at_least": "150"}),
    ],
    "versions are counted": [
        item("1", expect={"version": 1}),
        item("1", expect={"version": 1}),
        item("1", expect={"version": 2}),
    ],
    "names are used twice": [
        item("10", idempotency_key="a"),
        item("10", idempotency_key="a"),
        item("11", idempotency_key="a"),
        item("10", idempotency_key="a", id="11111111-1111-4111-8111-111111111111"),
        item("500", idempotency_key="b"),
        item("500", idempotency_key="b"),
    ],
    "what repeats a refused one is decided": [
        item("1000", idempotency_key="a"),
        item("10", idempotency_key="a"),
        item("10", idempotency_key="a"),
    ],
    "what repeats one in conflict is decided": [
        item("10", idempotency_key="a"),
        item("10", idempotency_key="a", id="11111111-1111-4111-8111-111111111111"),
        item("5", id="11111111-1111-4111-8111-111111111111"),
    ],
    "all are refused": [item("101"), item("102")],
    "two accounts": [item("30"), item("30", "credit", account_id="B")],
}


@pytest.mark.parametrize("key", [None, "k"], ids=["each", "one key"])
@pytest.mark.parametrize("name", BULKS)
async def test_each_of_many_is_foreseen(stand: Stand, name: str, key: str | None) -> None:
    items = BULKS[name]
    asked = await stand.ask(BULK, {"transactions": items}, key)
    assert outcomes(asked.foreseen) == outcomes(asked.real)


@pytest.mark.parametrize("key", [None, "k"], ids=["no key", "one key"])
@pytest.mark.parametrize(
    ("items", "is_done"),
    [
        ([item("30"), item("30", "credit", account_id="B")], True),
        ([item("60"), item("60")], False),
        ([item("50", "credit"), item("120")], False),
        ([item("1"), item("0")], False),
        ([item("1"), item("1", account_id="nobody")], False),
    ],
)
async def test_all_or_none_is_foreseen(
    stand: Stand, items: list[dict[str, Any]], is_done: bool, key: str | None
) -> None:
    asked = await stand.ask(BULK, {"transactions": items, "atomic": True}, key)
    assert ("dry_run" in asked.foreseen) is is_done
    assert is_done or asked.real["code"] == "atomic_request_refused"


@pytest.mark.parametrize("is_atomic", [False, True])
async def test_a_repetition_of_many_is_foreseen(stand: Stand, is_atomic: bool) -> None:
    body = {"transactions": [item("60"), item("20")], "atomic": is_atomic}
    first = (await stand.ask(BULK, body, "k")).real
    again = await stand.ask(BULK, body, "k")
    assert outcomes(again.foreseen) == outcomes(again.real) == [("accepted", True, None)] * 2
    ids = [result["transaction"]["transaction_id"] for result in first["results"]]
    assert [result["transaction_id"] for result in again.foreseen["results"]] == ids
    other = {"transactions": [item("60"), item("21")], "atomic": is_atomic}
    reused = await stand.ask(BULK, other, "k")
    assert reused.foreseen["code"] == reused.real["code"] == "idempotency_key_reused"
    named = {"transactions": [item("5", idempotency_key="n")], "atomic": is_atomic}
    await stand.ask(BULK, named)
    assert outcomes((await stand.ask(BULK, named)).foreseen) == [("accepted", True, None)]
    taken = {"transactions": [item("5", idempotency_key="k")]}
    assert outcomes((await stand.ask(BULK, taken)).foreseen)[0][0] == "idempotency_key_reused"


async def test_many_are_foreseen_in_the_form_they_are_asked_in(stand: Stand) -> None:
    headers = {"content-type": "application/msgpack"}
    content = msgspec.msgpack.encode({"transactions": [item("60"), item("60")]})
    answer = await stand.api.post(f"{BULK}?dry_run=true", content=content, headers=headers)
    assert answer.headers["content-type"] == "application/msgpack"
    foreseen = msgspec.msgpack.decode(answer.content)
    assert [result["success"] for result in foreseen["results"]] == [True, False]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, None),
        ({"credit_account_id": "B"}, None),
        ({"amount": "101"}, "insufficient_available"),
        ({"amount": "1.001"}, "amount_too_precise"),
        ({"account_id": "nobody"}, "account_not_found"),
        ({"credit_account_id": "nobody"}, "account_not_found"),
        ({"expires_in_s": 0}, "invalid_value"),
    ],
)
async def test_a_hold_is_foreseen(stand: Stand, fields: dict[str, Any], code: str | None) -> None:
    asked = await stand.ask(HOLDS, {"account_id": "A", "amount": "60", **fields}, "k")
    assert (asked.foreseen.get("code"), asked.real.get("code")) == (code, code)


async def test_a_repeated_hold_is_foreseen(stand: Stand) -> None:
    body = {"account_id": "A", "amount": "60"}
    first = (await stand.ask(HOLDS, body, "k")).real
    again = (await stand.ask(HOLDS, body, "k")).foreseen
    assert (again["outcome"], again["transaction_id"]) == ("replayed", first["hold_id"])
    assert (await stand.ask(HOLDS, {**body, "amount": "1"}, "k")).real["code"] == (
        "idempotency_key_reused"
    )


@pytest.mark.parametrize("credit", [{}, {"credit_account_id": "B"}])
async def test_what_is_done_to_a_hold_is_foreseen(stand: Stand, credit: dict[str, Any]) -> None:
    body = {"account_id": "A", "amount": "60", **credit}
    hold_id = (await stand.ask(HOLDS, body, "k")).real["hold_id"]
    path = f"{HOLDS}/{hold_id}"
    shown = ("hold_id", "status", "captured", "released", "remaining")
    for what, fields, key in (
        ("capture", {"amount": "10"}, "c1"),
        ("capture", {"amount": "10"}, "c1"),
        ("capture", {"amount": "20", "final": True}, "c2"),
        ("capture", {"amount": "20", "final": True}, "c2"),
    ):
        asked = await stand.ask(f"{path}/{what}", fields, key)
        assert asked.foreseen["hold"] == {name: asked.real[name] for name in shown}
    for what, fields, key, code in (
        ("capture", {}, "c3", "hold_ended"),
        ("release", {}, "r", "hold_ended"),
        ("capture", {"amount": "11"}, "c1", "idempotency_key_reused"),
    ):
        assert (await stand.ask(f"{path}/{what}", fields, key)).real["code"] == code
    other = (await stand.ask(HOLDS, body, "k2")).real["hold_id"]
    assert (await stand.ask(f"{HOLDS}/{other}/capture", {"amount": "61"}, "c4")).real["code"] == (
        "hold_exceeded"
    )
    asked = await stand.ask(f"{HOLDS}/{other}/release", {}, "r2")
    assert asked.foreseen["hold"]["status"] == asked.real["status"] == "RELEASED"
    nowhere = f"{HOLDS}/{UUID(int=1)}/release"
    assert (await stand.ask(nowhere, {}, "r3")).real["code"] == "hold_not_found"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"account_id": "C"}, None),
        ({"account_id": "C", "opening_balance": "12.5", "credit_limit": "7"}, None),
        ({"account_id": "C", "currency": "JPY", "opening_balance": "1.5"}, "amount_too_precise"),
        ({"account_id": "C", "currency": "XXQ"}, "unknown_currency"),
        ({"account_id": "A", "opening_balance": "100.00"}, None),
        ({"account_id": "A", "opening_balance": "99"}, "account_exists"),
        ({"account_id": "external:USD"}, "account_reserved"),
    ],
)
async def test_an_opening_is_foreseen(stand: Stand, fields: dict[str, Any], code: str) -> None:
    asked = await stand.ask(ACCOUNTS, fields)
    assert (asked.foreseen.get("code"), asked.real.get("code")) == (code, code)
    outcome = "replayed" if fields["account_id"] == "A" else "accepted"
    assert code or asked.foreseen["outcome"] == outcome


@pytest.mark.parametrize(
    ("fields", "etag", "code"),
    [
        ({"credit_limit": "25"}, None, None),
        ({"credit_limit": "25"}, '"1"', None),
        ({"credit_limit": "25"}, '"9"', "precondition_failed"),
        ({"frozen": "all", "metadata": {"a": "b"}}, None, None),
        ({"frozen": "none"}, None, None),
        ({"closed": True}, None, "account_not_empty"),
        ({"credit_limit": "9007199254740993"}, None, None),
        ({"credit_limit": "1.001"}, None, "amount_too_precise"),
        ({}, None, "invalid_value"),
    ],
)
async def test_a_change_is_foreseen(
    stand: Stand, fields: dict[str, Any], etag: str | None, code: str | None
) -> None:
    headers = {} if etag is None else {"if-match": etag}
    asked = await stand.ask(f"{ACCOUNTS}/A", fields, method="PATCH", **headers)
    assert (asked.foreseen.get("code"), asked.real.get("code")) == (code, code)


async def test_a_change_that_the_balance_forbids_is_foreseen(stand: Stand) -> None:
    path = f"{ACCOUNTS}/B"
    await stand.ask(path, {"credit_limit": "50"}, method="PATCH")
    await stand.ask(BULK, {"transactions": [item("30", account_id="B")]})
    refused = await stand.ask(path, {"credit_limit": "20"}, method="PATCH")
    assert refused.real["code"] == "limit_in_use"
    await stand.ask(BULK, {"transactions": [item("30", "credit", account_id="B")]})
    await stand.ask(HOLDS, {"account_id": "B", "amount": "1"}, "h")
    assert (await stand.ask(path, {"closed": True}, method="PATCH")).real["code"] == (
        "account_not_empty"
    )
    nobody = await stand.ask(f"{ACCOUNTS}/nobody", {"closed": True}, method="PATCH")
    assert nobody.real["code"] == "account_not_found"


async def test_what_is_frozen_or_closed_is_foreseen(stand: Stand) -> None:
    hold_id = (await stand.ask(HOLDS, {"account_id": "A", "amount": "60"}, "k")).real["hold_id"]
    await stand.ask(f"{ACCOUNTS}/A", {"frozen": "all"}, method="PATCH")
    await stand.ask(f"{ACCOUNTS}/B", {"closed": True}, method="PATCH")
    assert outcomes((await stand.ask(BULK, {"transactions": [item("1")]})).real)[0][0] == (
        "account_frozen"
    )
    release = await stand.ask(f"{HOLDS}/{hold_id}/release", {}, "r")
    assert release.real["code"] == "account_frozen"
    again = await stand.ask(f"{ACCOUNTS}/B", {"credit_limit": "1"}, method="PATCH")
    assert again.real["code"] == "account_closed"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", BULK, {"transactions": [item("1")]}),
        ("POST", BULK, {"transactions": [item("1")], "atomic": True}),
        ("POST", HOLDS, {"account_id": "A", "amount": "1"}),
        ("POST", ACCOUNTS, {"account_id": "C"}),
        ("PATCH", f"{ACCOUNTS}/A", {"credit_limit": "1"}),
    ],
)
async def test_a_closed_ledger_is_foreseen(
    stand: Stand, database: Any, method: str, path: str, body: dict[str, Any]
) -> None:
    await database.execute(CONTROL, "read_only")

    async def is_closed() -> bool:
        return bool((await stand.api.get("/health")).json()["mode"] == Mode.CLOSED)

    await eventually(is_closed)
    asked = await stand.ask(path, body, "k" if path == HOLDS else None, method=method)
    assert asked.real["code"] == "ledger_closed"
