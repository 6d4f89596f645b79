"""Accounts, balances and pending lists over HTTP, and the routes for tests."""

from typing import Any

import httpx
import msgspec
import pytest

from app.bootstrap import WorkerServices
from app.settings import Settings
from tests.conftest import serving

EMPTY = {"account_id": ""}
ACCOUNT: dict[str, Any] = {
    "account_id": "A",
    "opening_balance": "100.00",
    "credit_limit": "10",
    "metadata": {"owner": "me"},
}


async def moved(api: httpx.AsyncClient, amount: str, kind: str = "debit") -> str:
    body = {"account_id": "A", "amount": amount, "type": kind}
    answer = await api.post("/api/v1/transaction", json=body)
    assert answer.status_code == 201, answer.text
    transaction_id: str = answer.json()["transaction_id"]
    return transaction_id


async def test_an_account_is_opened_once(api: httpx.AsyncClient) -> None:
    first = await api.post("/api/v1/accounts", json=ACCOUNT)
    again = await api.post("/api/v1/accounts", json=ACCOUNT)
    read = await api.get("/api/v1/accounts/A")
    assert [first.status_code, again.status_code, read.status_code] == [201, 201, 200]
    assert first.content == again.content == read.content
    assert first.headers["etag"] == again.headers["etag"] == read.headers["etag"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    body = first.json()
    assert (body["account_id"], body["currency"]) == ("A", "USD")
    assert (body["credit_limit"], body["metadata"]) == ("10.00", {"owner": "me"})
    assert (await api.get("/api/v1/balance/A")).json()["available_balance"] == "110.00"


@pytest.mark.parametrize(
    "change",
    [
        {"opening_balance": "100.01"},
        {"credit_limit": "11"},
        {"currency": "EUR"},
        {"metadata": {}},
    ],
)
async def test_an_account_id_is_taken_for_ever(
    api: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    answer = await api.post("/api/v1/accounts", json={**ACCOUNT, **change})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "account_exists")
    assert problem["pointer"] == "/account_id"


async def test_an_opening_balance_comes_from_the_external_account(api: httpx.AsyncClient) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    external = (await api.get("/api/v1/balance/external:USD")).json()
    assert external["available_balance"] == "-100.00"


@pytest.mark.parametrize(
    ("currency", "amount", "text"), [("JPY", "5", "5"), ("KWD", "0.001", "0.001")]
)
async def test_a_currency_has_its_own_decimals(
    api: httpx.AsyncClient, currency: str, amount: str, text: str
) -> None:
    body = {"account_id": "A", "currency": currency, "opening_balance": amount}
    assert (await api.post("/api/v1/accounts", json=body)).status_code == 201
    assert (await api.get("/api/v1/balance/A")).json()["available_balance"] == text


async def test_a_balance_tells_pending_from_settled(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    await worker.settler.settle()
    await moved(api, "30")
    await moved(api, "5", "credit")
    pending = (await api.get("/api/v1/balance/A")).json()
    await worker.settler.settle()
    settled = (await api.get("/api/v1/balance/A")).json()
    assert (
        pending.items()
        >= {
            "settled_balance": "100.00",
            "pending_debit": "30.00",
            "pending_credit": "5.00",
            "available_balance": "85.00",
            "credit_limit": "10.00",
            "currency": "USD",
            "account_id": "A",
        }.items()
    )
    assert (
        settled.items()
        >= {
            "settled_balance": "75.00",
            "pending_debit": "0.00",
            "pending_credit": "0.00",
            "available_balance": "85.00",
        }.items()
    )
    assert settled["version"] == pending["version"] > 0, "settlement moves nothing"
    assert settled["last_updated"] > pending["last_updated"]


async def test_pending_is_counted_exactly_and_read_in_pages(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    await worker.settler.settle()
    expected = [await moved(api, "1.00", kind) for kind in ("debit", "credit", "debit") * 3]
    found: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"/api/v1/pending/A?limit=4{cursor}")).json()
        totals = (page["count"], page["total"], page["total_debit"], page["total_credit"])
        assert totals == (9, "9.00", "6.00", "3.00")
        found += [item["transaction_id"] for item in page["items"]]
        assert {item["status"] for item in page["items"]} == {"PENDING"}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == expected
    await worker.settler.settle()
    empty = (await api.get("/api/v1/pending/A")).json()
    assert (empty["count"], empty["total"], empty["items"]) == (0, "0.00", [])


async def test_a_transaction_is_found_by_id_and_key_for_ever(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    body = {"account_id": "A", "amount": "1.00", "type": "debit", "metadata": {"k": "v"}}
    answer = await api.post("/api/v1/transaction", json=body, headers={"idempotency-key": "k&1"})
    transaction_id = answer.json()["transaction_id"]
    by_id = await api.get(f"/api/v1/transactions/{transaction_id}")
    by_key = await api.get("/api/v1/transactions", params={"idempotency_key": "k&1"})
    await worker.settler.settle()
    settled = (await api.get(f"/api/v1/transactions/{transaction_id}")).json()
    assert by_id.status_code == by_key.status_code == 200
    assert by_id.json() == by_key.json()
    assert by_id.json()["status"] == "PENDING"
    assert settled["status"] == "SETTLED"
    assert settled["updated_at"] > settled["timestamp"] == answer.json()["timestamp"]
    assert settled["metadata"] == {"k": "v"}


async def test_test_accounts_are_opened_and_emptied_by_transactions(
    api: httpx.AsyncClient,
) -> None:
    await api.post("/api/v1/accounts", json=ACCOUNT)
    accounts = [
        {"account_id": "T1", "opening_balance": "5.00"},
        {"account_id": "T2", "credit_limit": "5.00"},
        {"account_id": "T3", "opening_balance": "1.00", "currency": "KWD"},
    ]
    opened = await api.post("/test/accounts", json={"accounts": accounts})
    assert opened.status_code == 201, opened.text
    debit = {"account_id": "T2", "amount": "2.00", "type": "debit"}
    await api.post("/api/v1/transaction", json=debit)
    cleaned = await api.delete("/test/cleanup")
    assert cleaned.status_code == 200
    assert cleaned.json().items() >= {"accounts": 3, "emptied": 3}.items()
    assert (await api.delete("/test/cleanup")).json()["emptied"] == 0
    available = [
        (await api.get(f"/api/v1/balance/{account_id}")).json()["available_balance"]
        for account_id in ("A", "T1", "T2", "T3")
    ]
    assert available == ["110.00", "0.00", "5.00", "0.000"]


async def test_what_is_frozen_or_held_is_emptied_as_well(api: httpx.AsyncClient) -> None:
    accounts = [{"account_id": name, "opening_balance": "5.00"} for name in ("T1", "T2", "T3")]
    await api.post("/test/accounts", json={"accounts": accounts})
    for name, amount in (("T1", "1"), ("T1", "2"), ("T2", "5")):
        await api.post("/api/v1/holds", json={"account_id": name, "amount": amount})
    for name, frozen in (("T1", "all"), ("T3", "debit")):
        await api.patch(f"/api/v1/accounts/{name}", json={"frozen": frozen})
    cleaned = await api.delete("/test/cleanup")
    assert (cleaned.status_code, cleaned.json()["emptied"]) == (200, 3), cleaned.text
    for name in ("T1", "T2", "T3"):
        balance = (await api.get(f"/api/v1/balance/{name}")).json()
        assert (balance["available_balance"], balance["held"]) == ("0.00", "0.00")
        closed = await api.patch(f"/api/v1/accounts/{name}", json={"closed": True})
        assert closed.status_code == 200
    assert (await api.delete("/test/cleanup")).json()["emptied"] == 0


async def test_a_thousand_test_accounts_are_one_request(api: httpx.AsyncClient) -> None:
    accounts = [
        {"account_id": f"{number:04}", "opening_balance": "1.00", "metadata": {"owner": "x" * 40}}
        for number in range(1_000)
    ]
    answer = await api.post("/test/accounts", json={"accounts": accounts}, timeout=60)
    assert answer.status_code == 201, answer.text
    assert answer.json()["opened"] == 1_000


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"accounts": []}, "invalid_value", "/accounts"),
        ({"accounts": [{"account_id": "T"}, {}]}, "missing_field", "/accounts/1/account_id"),
        ({"accounts": [{"account_id": "T"}, EMPTY]}, "account_id_empty", "/accounts/1/account_id"),
    ],
)
async def test_test_accounts_are_all_checked_before_one_is_opened(
    api: httpx.AsyncClient, body: dict[str, Any], code: str, pointer: str
) -> None:
    problem = (await api.post("/test/accounts", json=body)).json()
    assert problem["code"] == code
    assert problem["pointer"].startswith(pointer)
    assert (await api.get("/api/v1/accounts/T")).status_code == 404


async def test_test_routes_are_there_only_in_test_mode(settings: Settings) -> None:
    http = msgspec.structs.replace(settings.http, enable_test_mode=False)
    async with serving(msgspec.structs.replace(settings, http=http)) as api:
        assert (await api.post("/test/accounts", json={})).status_code == 404
        assert (await api.delete("/test/cleanup")).status_code == 404
