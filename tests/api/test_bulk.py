"""`POST /api/v1/transactions`: items on their own, all or none, one key for all, two encodings."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from app import limits
from tests.api.test_transactions import available, opened, told

PATH = "/api/v1/transactions"


def item(amount: str = "1.00", kind: str = "debit", **fields: Any) -> dict[str, Any]:
    return {"account_id": "A", "amount": amount, "type": kind, **fields}


async def sent(
    api: httpx.AsyncClient, *items: dict[str, Any], key: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    body = {"transactions": list(items), **fields}
    return await api.post(PATH, json=body, headers=headers)


def codes(answer: httpx.Response) -> list[str]:
    return [
        "accepted" if result["success"] else result["problem"]["code"]
        for result in answer.json()["results"]
    ]


async def rows(database: Any) -> int:
    return await database.fetchval("SELECT count(*) FROM sub_balances WHERE reference IS NULL")


async def test_each_item_gets_its_result_in_order(api: httpx.AsyncClient) -> None:
    await opened(api)
    items = [
        item("60"),
        item("0"),
        item("50", account_id="B"),
        item("60"),
        item("1.005"),
        item("40", reference="rent", metadata={"b": "1", "a": "2"}),
        item("7", kind="credit", account_id="external:USD"),
    ]
    answer = await sent(api, *items)
    assert answer.status_code == 200
    assert codes(answer) == [
        "accepted",
        "amount_zero",
        "account_not_found",
        "insufficient_available",
        "amount_too_precise",
        "accepted",
        "account_reserved",
    ]
    results = answer.json()["results"]
    assert results[1]["problem"]["pointer"] == "/transactions/1/amount"
    assert results[2]["problem"]["pointer"] == "/transactions/2/account_id"
    assert results[3]["problem"]["available"] == "40.00"
    view = results[5]["transaction"]
    assert (view["amount"], view["reference"], view["status"]) == ("40.00", "rent", "PENDING")
    found = await api.get(f"/api/v1/transactions/{view['transaction_id']}")
    assert found.json()["amount"] == "40.00"
    assert await available(api) == "0.00"


async def test_all_accepted_is_201(api: httpx.AsyncClient) -> None:
    await opened(api)
    answer = await sent(api, item("1"), item("2", kind="credit"))
    assert (answer.status_code, codes(answer)) == (201, ["accepted"] * 2)
    assert await available(api) == "101.00"


async def test_the_key_of_many_is_not_the_key_of_one(api: httpx.AsyncClient) -> None:
    await opened(api)
    await sent(api, item("1"), item("2"), key="all")
    await sent(api, item("1", idempotency_key="one"), item("2"))
    answers = [
        await api.get(PATH, params={"idempotency_key": key}) for key in ("all", "one", "none")
    ]
    assert told(answers[0]) == (422, "key_of_many", None)
    assert answers[1].json()["amount"] == "1.00"
    assert told(answers[2]) == (404, "transaction_not_found", None)
    again = await sent(api, item("1"), item("2"), key="all")
    assert [result["replayed"] for result in again.json()["results"]] == [True, True]


async def test_a_credit_before_a_debit_funds_it_where_items_stand_alone(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    answer = await sent(api, item("50", kind="credit"), item("150"))
    assert (answer.status_code, await available(api)) == (201, "0.00")


async def test_items_with_keys_are_replayed_one_by_one(
    api: httpx.AsyncClient, database: Any
) -> None:
    await opened(api)
    first = await sent(api, item(idempotency_key="k1"), item("2", idempotency_key="k2"))
    again = await sent(
        api,
        item(idempotency_key="k1"),
        item("3", idempotency_key="k2"),
        item("4", idempotency_key="k3"),
    )
    assert codes(again) == ["accepted", "idempotency_key_reused", "accepted"]
    one, two = first.json()["results"][0], again.json()["results"][0]
    assert (one["transaction"], one["replayed"], two["replayed"]) == (
        two["transaction"],
        False,
        True,
    )
    assert (await available(api), await rows(database)) == ("93.00", 3)


@pytest.mark.parametrize("worked", [True, False], ids=["accepted", "refused"])
@pytest.mark.parametrize("key", [None, "k"])
async def test_atomic_is_all_or_nothing(
    api: httpx.AsyncClient, database: Any, worked: bool, key: str | None
) -> None:
    await opened(api)
    await opened(api, "B")
    items = [item("60"), item("30", account_id="B"), item("40" if worked else "41"), item("5")]
    items[3]["type"] = "credit"
    answer = await sent(api, *items, key=key, atomic=True)
    if worked:
        assert (answer.status_code, codes(answer)) == (201, ["accepted"] * 4)
        assert (await available(api), await available(api, "B")) == ("5.00", "70.00")
        return
    assert answer.status_code == 422
    body = answer.json()
    assert (body["code"], body["pointer"]) == ("atomic_request_refused", "/transactions/2")
    assert codes(answer) == [
        "others_refused",
        "others_refused",
        "insufficient_available",
        "others_refused",
    ]
    assert (await available(api), await available(api, "B")) == ("100.00", "100.00")
    assert await rows(database) == 0


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (item("0"), "amount_zero"),
        (item(account_id="nobody"), "account_not_found"),
        (item("0.001"), "amount_too_precise"),
    ],
)
async def test_atomic_does_nothing_where_one_item_is_wrong(
    api: httpx.AsyncClient, wrong: dict[str, Any], code: str
) -> None:
    await opened(api)
    answer = await sent(api, item(), wrong, atomic=True)
    assert (answer.status_code, codes(answer)) == (422, ["others_refused", code])
    assert answer.json()["pointer"] == "/transactions/1"
    assert await available(api) == "100.00"


async def test_credits_of_an_atomic_request_do_not_fund_its_debits(api: httpx.AsyncClient) -> None:
    await opened(api)
    answer = await sent(api, item("50", kind="credit"), item("101"), atomic=True)
    assert codes(answer) == ["others_refused", "insufficient_available"]
    assert await available(api) == "100.00"


async def test_an_atomic_request_of_accepted_items_is_answered_again(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    items = [item(str(n), idempotency_key=f"k{n}") for n in (1, 2)]
    first = await sent(api, *items, atomic=True)
    again = await sent(api, *items, atomic=True)
    more = await sent(api, *items, item("3", idempotency_key="k3"), atomic=True)
    assert (first.status_code, again.status_code) == (201, 201)
    assert [each["replayed"] for each in again.json()["results"]] == [True, True]
    assert more.status_code == 422
    assert await available(api) == "97.00"


async def test_an_atomic_request_uses_a_name_once(api: httpx.AsyncClient) -> None:
    await opened(api)
    chosen = str(uuid4())
    answer = await sent(api, item(id=chosen), item(id=chosen), atomic=True)
    assert codes(answer) == ["others_refused", "invalid_value"]


@pytest.mark.parametrize("count", [1, 5, 2_500])
async def test_one_key_names_the_whole_request(
    api: httpx.AsyncClient, database: Any, count: int
) -> None:
    """Refused items are remembered with the accepted ones of their thousand."""
    await opened(api, "A", opening_balance="1000000")
    await opened(api, "B", opening_balance="3")
    items = [item("1", account_id="AB"[n % 2]) for n in range(count)]
    first = await sent(api, *items, key="k")
    await sent(api, item("1000", kind="credit", account_id="B"), key="other")
    again = await sent(api, *items, key="k")
    assert (first.status_code, again.status_code) == ((201, 201) if count <= 5 else (200, 200))
    assert ("idempotency-replayed" in first.headers) is False
    assert again.headers["idempotency-replayed"] == "true"
    for one, two in zip(first.json()["results"], again.json()["results"], strict=True):
        one.pop("replayed", None)
        assert two.pop("replayed", True)
        assert one == two
    accepted = sum(result["success"] for result in first.json()["results"])
    expected = count if count <= 5 else count // 2 + 3
    keys = await database.fetchval("SELECT count(*) FROM idempotency_keys WHERE item_no = -1")
    assert (accepted, await rows(database)) == (expected, expected + 1)
    assert keys == 3 + (count + limits.PART_ITEMS - 1) // limits.PART_ITEMS


async def test_refusals_of_unknown_accounts_are_remembered_too(api: httpx.AsyncClient) -> None:
    await opened(api)
    items = [item(), item(account_id="late"), item("0"), item("2")]
    first = await sent(api, *items, key="k")
    await opened(api, "late")
    again = await sent(api, *items, key="k")
    wanted = ["accepted", "account_not_found", "amount_zero", "accepted"]
    assert codes(first) == codes(again) == wanted
    assert [first.json()["results"][n]["transaction"] for n in (0, 3)] == [
        again.json()["results"][n]["transaction"] for n in (0, 3)
    ]
    assert (await available(api), await available(api, "late")) == ("97.00", "100.00")


async def test_another_request_under_the_same_key_is_refused(api: httpx.AsyncClient) -> None:
    await opened(api)
    await sent(api, item("1"), item("2"), key="k")
    for items, more in (
        ([item("2"), item("1")], {}),
        ([item("1"), item("2"), item("3")], {}),
        ([item("1"), item("2", reference="x")], {}),
        ([item("1"), item("2")], {"atomic": True}),
    ):
        answer = await sent(api, *items, key="k", **more)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    single = await api.post("/api/v1/transaction", json=item("1"), headers={"idempotency-key": "k"})
    assert (single.status_code, single.json()["code"]) == (422, "idempotency_key_reused")
    assert await available(api) == "97.00"


async def test_a_key_of_a_single_transaction_names_no_request(api: httpx.AsyncClient) -> None:
    await opened(api)
    await api.post("/api/v1/transaction", json=item("1"), headers={"idempotency-key": "k"})
    answer = await sent(api, item("1"), key="k")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await available(api) == "99.00"


async def test_a_refused_request_is_not_remembered(api: httpx.AsyncClient) -> None:
    await opened(api)
    refused = await sent(api, item("101"), key="k")
    await sent(api, item("1", kind="credit"))
    again = await sent(api, item("101"), key="k")
    assert (codes(refused), codes(again)) == (["insufficient_available"], ["accepted"])


@pytest.mark.parametrize("atomic", [True, False])
async def test_many_copies_at_once_move_money_once(
    api: httpx.AsyncClient, database: Any, atomic: bool
) -> None:
    await opened(api)
    items = [item(str(n)) for n in range(1, 11)]
    answers = await asyncio.gather(*(sent(api, *items, key="k", atomic=atomic) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    told = {str([each["transaction"] for each in a.json()["results"]]) for a in answers}
    assert len(told) == 1
    assert (await available(api), await rows(database)) == ("45.00", 10)


@pytest.mark.parametrize("name", ["idempotency_key", "id"])
async def test_a_request_with_a_key_has_no_names_inside(api: httpx.AsyncClient, name: str) -> None:
    await opened(api)
    answer = await sent(api, item(**{name: str(uuid4())}), key="k")
    assert codes(answer) == ["invalid_value"]
    assert answer.json()["results"][0]["problem"]["pointer"] == f"/transactions/0/{name}"


async def test_messagepack_is_answered_in_messagepack(api: httpx.AsyncClient) -> None:
    await opened(api)
    body = msgspec.msgpack.encode({"transactions": [item("1"), item("200")]})
    answer = await api.post(PATH, content=body, headers={"content-type": "application/msgpack"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/msgpack")
    results = msgspec.msgpack.decode(answer.content)["results"]
    assert [result["success"] for result in results] == [True, False]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"\xc1", "application/msgpack", 400, "malformed_json"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b'{"transactions":[]}', "application/json", 400, "invalid_value"),
        (b'{"transactions":[{}]}', "application/json", 400, "missing_field"),
        (b'{"transactions":1}', "application/json", 400, "wrong_type"),
        (b'{"atomic":1}', "application/json", 400, "wrong_type"),
        (
            b'{"transactions":[{"account_id":"A","amount":1.5,"type":"debit"}]}',
            "application/json",
            400,
            "amount_float",
        ),
    ],
)
async def test_a_body_of_another_form_is_refused_whole(
    api: httpx.AsyncClient, content: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await api.post(PATH, content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_too_many_items_or_bytes_are_refused(api: httpx.AsyncClient) -> None:
    many = await sent(api, *[item()] * (limits.REQUEST_ITEMS_MAX + 1))
    assert (many.status_code, many.json()["code"]) == (400, "invalid_value")
    large = await api.post(
        PATH,
        content=b" " * (limits.REQUEST_BYTES_MAX + 1),
        headers={"content-type": "application/json"},
    )
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")


async def test_the_largest_atomic_request_is_one_commit(
    api: httpx.AsyncClient, database: Any
) -> None:
    await opened(api, "A", opening_balance="100000")
    answer = await sent(api, *[item("1")] * limits.REQUEST_ITEMS_MAX, atomic=True)
    assert answer.status_code == 201
    ids = [each["transaction"]["transaction_id"] for each in answer.json()["results"]]
    assert len(set(ids)) == limits.REQUEST_ITEMS_MAX
    for position in (0, 4095, 4096, limits.REQUEST_ITEMS_MAX - 1):
        found = await api.get(f"/api/v1/transactions/{ids[position]}")
        assert found.json()["transaction_id"] == ids[position]
    assert await database.fetchval("SELECT count(DISTINCT id) FROM sub_balances") == 8_001
    assert await database.fetchval("SELECT max(entry_count) FROM journal_batches") == 8_000
    assert await available(api) == "92000.00"
