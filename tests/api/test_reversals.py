"""`POST /api/v1/transactions/{id}/reversal`: once, linked both ways."""

import asyncio
from typing import Any

import httpx
import pytest

from app.bootstrap import WorkerServices
from tests.api.test_holds import act, hold
from tests.api.test_transactions import available, opened, sent
from tests.api.test_transfers import post as transferred
from tests.api.test_transfers import transfer


async def reverse(
    api: httpx.AsyncClient, transaction_id: str, key: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return await api.post(
        f"/api/v1/transactions/{transaction_id}/reversal", json=fields, headers=headers
    )


async def view(api: httpx.AsyncClient, transaction_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get(f"/api/v1/transactions/{transaction_id}")).json()
    return found


@pytest.mark.parametrize(("kind", "other"), [("debit", "credit"), ("credit", "debit")])
async def test_a_transaction_is_taken_back_and_both_name_each_other(
    api: httpx.AsyncClient, worker: WorkerServices, kind: str, other: str
) -> None:
    await opened(api)
    original = (await sent(api, type=kind, amount="12.34")).json()["transaction_id"]
    await worker.settler.settle()
    answer = await reverse(api, original, reference="wrong", metadata={"why": "typo"})
    body = answer.json()
    assert answer.status_code == 201
    assert (body["type"], body["amount"], body["account_id"]) == (other, "12.34", "A")
    assert (body["reference"], body["metadata"]) == ("wrong", {"why": "typo"})
    assert body["reverses"] == original
    assert await available(api) == "100.00"
    assert (await view(api, original))["reversed_by"] == body["transaction_id"]
    assert (await view(api, body["transaction_id"]))["reverses"] == original
    assert "reversed_by" not in await view(api, body["transaction_id"])


async def test_it_is_done_once_whoever_asks(api: httpx.AsyncClient) -> None:
    await opened(api)
    original = (await sent(api)).json()["transaction_id"]
    first = await reverse(api, original)
    again = await reverse(api, original)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    for key, fields in (("k", {}), (None, {"reference": "other"}), ("k", {"reference": "other"})):
        refused = await reverse(api, original, key, **fields)
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (409, "already_reversed")
        assert problem["transaction_id"] == first.json()["transaction_id"]
    assert await available(api) == "100.00"


async def test_of_many_at_once_one_is_done(api: httpx.AsyncClient) -> None:
    await opened(api)
    original = (await sent(api)).json()["transaction_id"]
    answers = await asyncio.gather(*(reverse(api, original, f"k{n}") for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    assert await available(api) == "100.00"


async def test_a_retry_beside_another_one_is_known_by_its_own_key(api: httpx.AsyncClient) -> None:
    await opened(api)
    original = (await sent(api)).json()["transaction_id"]
    first = await reverse(api, original, "k")
    for _ in range(5):
        nameless, retry = await asyncio.gather(reverse(api, original), reverse(api, original, "k"))
        assert (nameless.status_code, retry.status_code) == (201, 201)
        assert retry.content == nameless.content == first.content


async def test_a_key_and_an_id_of_its_own_are_kept(api: httpx.AsyncClient) -> None:
    await opened(api)
    original = (await sent(api, key="taken")).json()["transaction_id"]
    chosen = "7d1f2a52-3f5c-4c56-9a53-9a4a4e2f7c11"
    refused = await reverse(api, original, "taken")
    assert refused.json()["code"] == "idempotency_identity_conflict"
    first = await reverse(api, original, "k", id=chosen)
    assert first.json()["transaction_id"] == chosen
    assert (await reverse(api, original, "k", id=chosen)).content == first.content
    by_key = await api.get("/api/v1/transactions", params={"idempotency_key": "k"})
    assert by_key.json()["reverses"] == original


async def test_a_credit_that_was_spent_cannot_be_taken_back(api: httpx.AsyncClient) -> None:
    await opened(api)
    original = (await sent(api, type="credit", amount="50")).json()["transaction_id"]
    await sent(api, amount="120")
    refused = await reverse(api, original)
    assert (refused.status_code, refused.json()["code"]) == (422, "insufficient_available")
    await sent(api, type="credit", amount="20")
    assert (await reverse(api, original)).status_code == 201
    assert await available(api) == "0.00"


async def test_what_is_part_of_something_else_is_not_taken_back_alone(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")
    moved = (await transferred(api, transfer("5"))).json()
    held = (await hold(api, key="h", amount="10")).json()["hold_id"]
    await act(api, held, "capture", key="c")
    reversal = (await reverse(api, (await sent(api)).json()["transaction_id"])).json()
    capture = (await api.get("/api/v1/transactions", params={"idempotency_key": "c"})).json()
    for transaction_id in (
        moved["transfer_id"],
        moved["credit_transaction_id"],
        reversal["transaction_id"],
        capture["transaction_id"],
    ):
        refused = await reverse(api, transaction_id)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_reversible")
    told = (await reverse(api, held)).json()
    assert (told["code"], told["detail"][-25:]) == ("not_reversible", "release the hold instead.")
    assert await available(api) == "85.00"


@pytest.mark.parametrize(
    ("transaction_id", "fields", "status", "code"),
    [
        ("x", {}, 400, "invalid_parameter"),
        ("7d1f2a52-3f5c-4c56-9a53-9a4a4e2f7c11", {}, 404, "transaction_not_found"),
        ("01a1fd02-db26-8000-8000-000000009999", {}, 404, "transaction_not_found"),
        ("01a1fd02-db26-8000-8000-000000009999", {"amount": "1"}, 400, "unknown_field"),
        ("01a1fd02-db26-8000-8000-000000009999", {"reference": "x" * 141}, 400, "invalid_value"),
    ],
)
async def test_bad_input_is_refused(
    api: httpx.AsyncClient, transaction_id: str, fields: dict[str, str], status: int, code: str
) -> None:
    answer = await reverse(api, transaction_id, **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
