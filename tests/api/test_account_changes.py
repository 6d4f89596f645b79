"""Changing, freezing, closing and listing accounts over HTTP, in both modes."""

from typing import Any

import httpx
import pytest

from app import limits
from tests.integration.test_controls import CONTROL

PATH = "/api/v1/accounts/A"
REDIS, POSTGRES = "redis", "postgres"


@pytest.fixture(params=[REDIS, POSTGRES])
async def ledger(api: httpx.AsyncClient, request: pytest.FixtureRequest, database: Any) -> Any:
    """The service with the account A, in the one mode and in the other."""
    await opened(api, "A", opening_balance="100.00", credit_limit="10", metadata={"owner": "me"})
    if request.param == POSTGRES:
        await database.execute(CONTROL, "force_postgres")
    answer = await moved(api, "credit", "1.00")
    assert answer.status_code == 201, answer.text
    return api


async def opened(api: httpx.AsyncClient, account_id: str, **more: Any) -> None:
    answer = await api.post("/api/v1/accounts", json={"account_id": account_id, **more})
    assert answer.status_code == 201, answer.text


async def moved(
    api: httpx.AsyncClient, kind: str, amount: str, account_id: str = "A", **headers: str
) -> httpx.Response:
    body = {"account_id": account_id, "amount": amount, "type": kind}
    return await api.post("/api/v1/transaction", json=body, headers=headers)


async def changed(api: httpx.AsyncClient, etag: str = "", **change: Any) -> httpx.Response:
    return await api.patch(PATH, json=change, headers={"if-match": etag} if etag else {})


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_a_new_account_is_neither_frozen_nor_closed(api: httpx.AsyncClient) -> None:
    await opened(api, "A")
    read = (await api.get(PATH)).json()
    assert (read["frozen"], read["closed"]) == ("none", False)


async def test_a_change_is_answered_with_the_account_and_its_new_etag(ledger: Any) -> None:
    before = await ledger.get(PATH)
    answer = await changed(ledger, credit_limit="25", frozen="credit", metadata={"a": "b"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["credit_limit"] == "25.00"
    assert (answer.json()["frozen"], answer.json()["metadata"]) == ("credit", {"a": "b"})
    after = await ledger.get(PATH)
    assert after.content == answer.content
    assert after.headers["etag"] == answer.headers["etag"] != before.headers["etag"]
    assert (await ledger.get("/api/v1/balance/A")).json()["available_balance"] == "126.00"


@pytest.mark.parametrize(
    "change",
    [{"credit_limit": "10.00"}, {"frozen": "none"}, {"metadata": {"owner": "me"}}],
)
async def test_a_change_that_changes_nothing_keeps_the_etag(
    ledger: Any, change: dict[str, Any]
) -> None:
    before = await ledger.get(PATH)
    answer = await changed(ledger, **change)
    assert answer.status_code == 200
    assert answer.headers["etag"] == before.headers["etag"]
    assert answer.content == before.content


async def test_if_match_lets_one_of_two_changes_through(ledger: Any) -> None:
    etag = (await ledger.get(PATH)).headers["etag"]
    assert told(await changed(ledger, etag, frozen="debit")) == (200, "")
    assert told(await changed(ledger, etag, frozen="all")) == (412, "precondition_failed")
    assert told(await changed(ledger, f'"x", {etag}', frozen="all"))[0] == 412
    assert (await ledger.get(PATH)).json()["frozen"] == "debit"
    for fitting in ("*", '"1", "2"'):
        assert told(await changed(ledger, fitting, frozen="debit")) == (200, "")
    assert told(await changed(ledger, 'W/"2"', frozen="none")) == (412, "precondition_failed")


@pytest.mark.parametrize("frozen", ["none", "debit", "credit", "all"])
async def test_a_frozen_account_refuses_what_it_is_frozen_for(ledger: Any, frozen: str) -> None:
    await changed(ledger, frozen=frozen)
    for kind in ("debit", "credit"):
        answer = await moved(ledger, kind, "1.00")
        if frozen in (kind, "all"):
            problem = answer.json()
            assert told(answer) == (422, "account_frozen")
            assert (problem["retryable"], problem["status"]) == (False, "REJECTED")
        else:
            assert answer.status_code == 201
    await changed(ledger, frozen="none")
    assert (await moved(ledger, "debit", "1.00")).status_code == 201


async def test_bulk_requests_are_refused_on_a_frozen_account_as_well(ledger: Any) -> None:
    await opened(ledger, "B", opening_balance="5.00")
    await changed(ledger, frozen="debit")
    body = {
        "transactions": [
            {"account_id": "A", "amount": "1", "type": "debit"},
            {"account_id": "B", "amount": "1", "type": "debit"},
            {"account_id": "A", "amount": "1", "type": "credit"},
        ]
    }
    ways = [(body, {}), (body, {"idempotency-key": "k"}), ({**body, "atomic": True}, {})]
    for sent, headers in ways:
        answer = await ledger.post("/api/v1/transactions", json=sent, headers=headers)
        results = answer.json()["results"]
        assert results[0]["problem"]["code"] == "account_frozen", answer.text
        accepted = [result["success"] for result in results]
        assert accepted == ([False] * 3 if sent.get("atomic") else [False, True, True])
    again = await ledger.post("/api/v1/transactions", json=body, headers={"idempotency-key": "k"})
    assert again.json()["results"][0]["problem"]["code"] == "account_frozen"
    assert (await ledger.get("/api/v1/balance/B")).json()["available_balance"] == "3.00"


async def test_a_frozen_account_repeats_what_it_accepted(ledger: Any) -> None:
    key = {"idempotency-key": "k"}
    body = {"account_id": "A", "amount": "1", "type": "debit"}
    first = await ledger.post("/api/v1/transaction", json=body, headers=key)
    await changed(ledger, frozen="all")
    again = await ledger.post("/api/v1/transaction", json=body, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_limit_is_lowered_only_as_far_as_it_is_not_used(ledger: Any) -> None:
    assert (await moved(ledger, "debit", "107.00")).status_code == 201
    answer = await changed(ledger, credit_limit="5.99")
    problem = answer.json()
    assert told(answer) == (422, "limit_in_use")
    assert (problem["requested"], problem["available"]) == ("5.99", "4.00")
    assert problem["pointer"] == "/credit_limit"
    assert told(await changed(ledger, credit_limit="6")) == (200, "")
    assert told(await moved(ledger, "debit", "0.01")) == (422, "insufficient_available")
    assert told(await changed(ledger, credit_limit="7")) == (200, "")
    assert told(await moved(ledger, "debit", "1.00")) == (201, "")


async def test_an_account_is_closed_at_zero_and_for_ever(ledger: Any) -> None:
    answer = await changed(ledger, closed=True)
    assert told(answer) == (422, "account_not_empty")
    assert answer.json()["balance"] == "101.00"
    assert (await moved(ledger, "debit", "101.00")).status_code == 201
    closed = await changed(ledger, closed=True)
    assert (closed.status_code, closed.json()["closed"]) == (200, True)
    for kind in ("debit", "credit"):
        assert told(await moved(ledger, kind, "1.00")) == (422, "account_closed")
    assert told(await changed(ledger, credit_limit="1")) == (422, "account_closed")
    again = await changed(ledger, closed=True)
    assert (again.status_code, again.content) == (200, closed.content)


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({}, 400, "invalid_value", ""),
        ({"closed": False}, 400, "invalid_value", "/closed"),
        ({"closed": 1}, 400, "wrong_type", "/closed"),
        ({"frozen": "half"}, 400, "invalid_value", "/frozen"),
        ({"frozen": None}, 400, "wrong_type", "/frozen"),
        ({"currency": "EUR"}, 400, "unknown_field", "/currency"),
        ({"credit_limit": "-1"}, 400, "amount_negative", "/credit_limit"),
        ({"credit_limit": 1.5}, 400, "amount_float", "/credit_limit"),
        ({"credit_limit": "0.001"}, 400, "amount_too_precise", "/credit_limit"),
        ({"credit_limit": "10000000000000000"}, 400, "amount_too_large", "/credit_limit"),
        ({"metadata": {"k": "x" * 257}}, 400, "invalid_value", "/metadata/k"),
    ],
)
async def test_a_malformed_change_is_refused_by_name(
    api: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    await opened(api, "A")
    answer = await api.patch(PATH, json=body)
    assert told(answer) == (status, code)
    assert answer.json()["pointer"] == pointer


@pytest.mark.parametrize(
    ("account_id", "if_match", "status", "code"),
    [
        ("NOBODY", "", 404, "account_not_found"),
        ("external:USD", "", 422, "account_reserved"),
        ("A%20B", "", 400, "account_id_malformed"),
        ("A", "1", 400, "invalid_parameter"),
        ("A", '"1",', 400, "invalid_parameter"),
        ("A", '"' + "1" * 1_000 + '"', 400, "invalid_parameter"),
        ("A", '"01234567890123456789"', 412, "precondition_failed"),
    ],
)
async def test_what_cannot_be_changed_is_said(
    api: httpx.AsyncClient, account_id: str, if_match: str, status: int, code: str
) -> None:
    await opened(api, "A", opening_balance="1")
    headers = {"if-match": if_match} if if_match else {}
    body = {"frozen": "all"}
    answer = await api.patch(f"/api/v1/accounts/{account_id}", json=body, headers=headers)
    assert told(answer) == (status, code)


async def test_a_closed_ledger_changes_no_account(ledger: Any, database: Any) -> None:
    await database.execute(CONTROL, "read_only")
    for _ in range(2):
        answer = await changed(ledger, frozen="all")
        assert told(answer) == (503, "ledger_closed")


async def test_the_fast_lane_and_the_router_refuse_alike(api_both: httpx.AsyncClient) -> None:
    await opened(api_both, "A", opening_balance="1")
    await changed(api_both, frozen="debit")
    answer = await moved(api_both, "debit", "1.00")
    assert told(answer) == (422, "account_frozen")
    assert answer.json()["requested"] == "1.00"


async def listed(api: httpx.AsyncClient, **parameters: str) -> list[str]:
    """The ids in the list, over all its pages."""
    found: list[str] = []
    while True:
        answer = await api.get("/api/v1/accounts", params=parameters)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [account["account_id"] for account in page["accounts"]]
        if page["next_cursor"] is None:
            return found
        parameters["cursor"] = page["next_cursor"]


@pytest.fixture
async def some(api: httpx.AsyncClient) -> httpx.AsyncClient:
    """Some accounts: of two currencies, one frozen, one closed."""
    for account_id, currency, owner in (
        ("D", "USD", "x"),
        ("C", "EUR", "x"),
        ("B", "USD", "y"),
        ("A", "USD", "x"),
    ):
        metadata = {"owner": owner, "kind": "k.1"}
        await opened(api, account_id, currency=currency, metadata=metadata, opening_balance="0")
    await api.patch("/api/v1/accounts/B", json={"frozen": "debit"})
    await api.patch("/api/v1/accounts/A", json={"closed": True})
    return api


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({}, "DCBA"),
        ({"currency": "USD"}, "DBA"),
        ({"currency": "JPY"}, ""),
        ({"frozen": "debit"}, "B"),
        ({"frozen": "none"}, "DCA"),
        ({"closed": "true"}, "A"),
        ({"closed": "false", "currency": "USD"}, "DB"),
        ({"metadata.owner": "x"}, "DCA"),
        ({"metadata.owner": "x", "metadata.kind": "k.1", "currency": "EUR"}, "C"),
        ({"metadata.owner": "X"}, ""),
    ],
)
async def test_accounts_are_listed_in_order_as_wanted(
    some: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, str],
    found: str,
) -> None:
    for limit in ("1", "2", "3", "100"):
        assert await listed(some, **parameters, limit=limit) == list(found)
    monkeypatch.setattr(limits, "ACCOUNTS_LOOKED_AT_MAX", 2)
    assert await listed(some, **parameters) == list(found)


async def test_an_account_in_the_list_is_as_it_is_by_itself(some: httpx.AsyncClient) -> None:
    page = (await some.get("/api/v1/accounts", params={"limit": "2"})).json()
    for account in page["accounts"]:
        assert account == (await some.get(f"/api/v1/accounts/{account['account_id']}")).json()


async def test_an_external_account_is_not_listed(api: httpx.AsyncClient) -> None:
    assert await listed(api) == []
    await opened(api, "A", opening_balance="1")
    assert await listed(api) == ["A"]


@pytest.mark.parametrize(
    ("query", "code", "pointer"),
    [
        ("currency=DOLLAR", "unknown_currency", "/currency"),
        ("frozen=half", "invalid_parameter", "/frozen"),
        ("closed=1", "invalid_parameter", "/closed"),
        ("limit=0", "invalid_parameter", "/limit"),
        ("limit=1001", "invalid_parameter", "/limit"),
        ("limit=x", "invalid_parameter", "/limit"),
        ("cursor=x", "invalid_cursor", "/cursor"),
        ("cursor=", "invalid_cursor", "/cursor"),
        ("owner=x", "invalid_parameter", "/owner"),
        ("closed=true&closed=true", "invalid_parameter", "/closed"),
        ("metadata.k=a&metadata.k=b", "invalid_parameter", "/metadata.k"),
        ("metadata." + "k" * 41 + "=a", "invalid_value", "/metadata/" + "k" * 40),
    ],
)
async def test_a_wrong_parameter_of_the_list_is_refused_by_name(
    api: httpx.AsyncClient, query: str, code: str, pointer: str
) -> None:
    answer = await api.get(f"/api/v1/accounts?{query}")
    assert told(answer) == (400, code)
    assert answer.json()["pointer"] == pointer


async def test_an_opening_is_known_again_after_a_change(ledger: Any) -> None:
    same = {"account_id": "A", "opening_balance": "100.00", "credit_limit": "10"}
    for change in ({"metadata": {}}, {"credit_limit": "20"}):
        assert (await changed(ledger, **change)).status_code == 200
    again = await ledger.post("/api/v1/accounts", json={**same, "metadata": {"owner": "me"}})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["credit_limit"] == "20.00"
    other = await ledger.post("/api/v1/accounts", json=same)
    assert told(other)[1] == "account_exists"


async def test_an_etag_is_compared_to_the_letter(ledger: Any) -> None:
    assert told(await changed(ledger, etag='"01"', frozen="all")) == (412, "precondition_failed")
