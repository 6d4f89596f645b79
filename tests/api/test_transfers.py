"""`POST /api/v1/transfers` and `/groups`, and the reads that follow them."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from app import limits
from app.bootstrap import WorkerServices
from app.settings import Settings
from tests.api.test_transactions import INSTANT, available, opened, sent, told
from tests.conftest import serving

TRANSFERS, GROUPS = "/api/v1/transfers", "/api/v1/groups"


def transfer(amount: str = "1.00", credit: str = "B", **fields: Any) -> dict[str, Any]:
    return {"debit_account_id": "A", "credit_account_id": credit, "amount": amount, **fields}


async def post(
    api: httpx.AsyncClient, *transfers: dict[str, Any], key: str | None = None, path: str = ""
) -> httpx.Response:
    """Send one transfer, or several as a group."""
    headers = {"idempotency-key": key} if key else {}
    if len(transfers) == 1 and not path:
        return await api.post(TRANSFERS, json=transfers[0], headers=headers)
    return await api.post(GROUPS, json={"transfers": list(transfers)}, headers=headers)


@pytest.fixture
async def accounts(api: httpx.AsyncClient) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")
    await opened(api, "C", opening_balance="0")


async def test_an_accepted_transfer_is_told_in_full(
    api: httpx.AsyncClient, accounts: None, worker: WorkerServices
) -> None:
    answer = await post(api, transfer("2.5", reference="rent", metadata={"b": "2", "a": "1"}))
    body = answer.json()
    assert answer.status_code == 201
    transfer_id = body["transfer_id"]
    credit_id = body.pop("credit_transaction_id")
    assert INSTANT.fullmatch(body.pop("timestamp"))
    assert UUID(transfer_id).version == UUID(credit_id).version == 8
    assert body == {
        "success": True,
        "message": "Transaksi berhasil diproses",
        "transfer_id": transfer_id,
        "group_id": transfer_id,
        "debit_account_id": "A",
        "credit_account_id": "B",
        "amount": "2.50",
        "currency": "USD",
        "status": "PENDING",
        "mode": "redis",
        "reference": "rent",
        "metadata": {"a": "1", "b": "2"},
    }
    assert [await available(api, each) for each in "AB"] == ["97.50", "2.50"]
    await worker.settler.settle()
    found = (await api.get(f"{TRANSFERS}/{transfer_id}")).json()
    assert (found["status"], found["amount"], found["credit_transaction_id"]) == (
        "SETTLED",
        "2.50",
        credit_id,
    )


async def test_both_halves_are_transactions_that_name_each_other(
    api: httpx.AsyncClient, accounts: None
) -> None:
    body = (await post(api, transfer("2.5"), key="k")).json()
    halves = {
        account: (await api.get(f"/api/v1/transactions/{number}")).json()
        for account, number in (("A", body["transfer_id"]), ("B", body["credit_transaction_id"]))
    }
    by_key = (await api.get("/api/v1/transactions", params={"idempotency_key": "k"})).json()
    assert by_key == halves["A"]
    for account, kind, other in (("A", "debit", "B"), ("B", "credit", "A")):
        half = halves[account]
        assert (half["account_id"], half["type"], half["other_account_id"]) == (
            account,
            kind,
            other,
        )
        assert (half["amount"], half["transfer_id"]) == ("2.50", body["transfer_id"])
        pending = (await api.get(f"/api/v1/pending/{account}")).json()["items"]
        assert half in pending
    single = (await sent(api)).json()
    found = (await api.get(f"/api/v1/transactions/{single['transaction_id']}")).json()
    assert (found["transfer_id"], found["other_account_id"]) == (None, None)


async def test_a_group_is_accepted_in_the_order_it_was_asked_for(
    api: httpx.AsyncClient, accounts: None
) -> None:
    answer = await post(
        api, transfer("3", "C"), transfer("2"), transfer("1", "C", reference="fee"), key="g"
    )
    body = answer.json()
    assert answer.status_code == 201
    assert [
        (each["credit_account_id"], each["amount"], each["reference"]) for each in body["transfers"]
    ] == [("C", "3.00", None), ("B", "2.00", None), ("C", "1.00", "fee")]
    assert {each["group_id"] for each in body["transfers"]} == {body["group_id"]}
    assert body["group_id"] == body["transfers"][0]["transfer_id"]
    found = (await api.get(f"{GROUPS}/{body['group_id']}")).json()
    by_key = (await api.get(GROUPS, params={"idempotency_key": "g"})).json()
    assert found == by_key
    assert [each["transfer_id"] for each in found["transfers"]] == [
        each["transfer_id"] for each in body["transfers"]
    ]
    assert [await available(api, each) for each in "ABC"] == ["94.00", "2.00", "4.00"]


async def test_a_repeated_request_gets_the_same_bytes_and_moves_once(
    api: httpx.AsyncClient, accounts: None
) -> None:
    for asked in ([transfer()], [transfer(), transfer("2", "C", metadata={"b": "1", "a": "2"})]):
        key = f"k{len(asked)}"
        answers = await asyncio.gather(*(post(api, *asked, key=key) for _ in range(20)))
        answers.append(await post(api, *asked, key=key))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
        assert replayed.count(None) == 1
    assert [await available(api, each) for each in "ABC"] == ["96.00", "2.00", "2.00"]


async def test_a_transfer_alone_and_a_group_of_one_are_the_same_request(
    api: httpx.AsyncClient, accounts: None
) -> None:
    alone = (await post(api, transfer(), key="k")).json()
    group = await post(api, transfer(), key="k", path=GROUPS)
    assert group.headers["idempotency-replayed"] == "true"
    assert group.json()["transfers"][0]["transfer_id"] == alone["transfer_id"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "pointer"),
    [
        ({"amount": "100.01"}, 422, "insufficient_available", "/debit_account_id"),
        ({"credit_account_id": "A"}, 400, "same_account", "/credit_account_id"),
        ({"credit_account_id": "X"}, 404, "account_not_found", "/credit_account_id"),
        ({"debit_account_id": "X"}, 404, "account_not_found", "/debit_account_id"),
        ({"credit_account_id": "JPY"}, 422, "currency_mismatch", "/credit_account_id"),
        ({"credit_account_id": "external:USD"}, 422, "account_reserved", "/credit_account_id"),
        ({"debit_account_id": ""}, 400, "account_id_empty", "/debit_account_id"),
        ({"amount": "1.001"}, 400, "amount_too_precise", "/amount"),
        ({"amount": "0"}, 400, "amount_zero", "/amount"),
        ({"amount": 1.5}, 400, "amount_float", "/amount"),
        ({"id": "11111111-1111-8111-8111-111111111111"}, 400, "invalid_value", "/id"),
        ({"reference": "x" * 141}, 400, "invalid_value", "/reference"),
        ({"kind": "x"}, 400, "unknown_field", "/kind"),
    ],
)
async def test_what_is_refused_says_why_and_changes_nothing(
    api: httpx.AsyncClient,
    accounts: None,
    fields: dict[str, Any],
    status: int,
    code: str,
    pointer: str,
) -> None:
    await opened(api, "JPY", opening_balance="0", currency="JPY")
    alone = await post(api, {**transfer(), **fields}, key="k")
    group = await post(api, transfer(), {**transfer(), **fields}, key="g")
    assert told(alone) == (status, code, pointer)
    assert told(group) == (status, code, f"/transfers/1{pointer}")
    assert [await available(api, each) for each in "AB"] == ["100.00", "0.00"]
    assert (await post(api, transfer(), key="k")).status_code == 201


async def test_a_refusal_has_the_figures_and_the_account(
    api: httpx.AsyncClient, accounts: None
) -> None:
    problem = (await post(api, transfer("60"), transfer("41", "C"))).json()
    assert (problem["success"], problem["account_id"]) == (False, "A")
    assert (problem["requested"], problem["available"]) == ("41.00", "40.00")
    assert problem["pointer"] == "/transfers/1/debit_account_id"


@pytest.mark.parametrize("count", [0, limits.GROUP_TRANSFERS_MAX + 1])
async def test_a_group_has_1_to_100_transfers(
    api: httpx.AsyncClient, accounts: None, count: int
) -> None:
    body = {"transfers": [transfer("0.01")] * count}
    answer = await api.post(GROUPS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


async def test_a_group_uses_an_id_once(api: httpx.AsyncClient, accounts: None) -> None:
    chosen = str(uuid4())
    answer = await post(api, transfer(id=chosen), transfer(id=chosen))
    assert answer.json()["pointer"] == "/transfers/1/id"
    accepted = await post(api, transfer(id=chosen))
    assert accepted.json()["transfer_id"] == chosen
    found = await api.get(f"{TRANSFERS}/{chosen}")
    assert found.json()["amount"] == "1.00"


async def test_several_currencies_go_together(api: httpx.AsyncClient, accounts: None) -> None:
    await opened(api, "A.JPY", opening_balance="0", currency="JPY")
    await opened(api, "FX.USD", opening_balance="0")
    await opened(api, "FX.JPY", opening_balance="5000", currency="JPY")
    legs = [
        transfer("10", "FX.USD"),
        {"debit_account_id": "FX.JPY", "credit_account_id": "A.JPY", "amount": "1500"},
    ]
    answer = await post(api, *legs)
    assert [(each["amount"], each["currency"]) for each in answer.json()["transfers"]] == [
        ("10.00", "USD"),
        ("1500", "JPY"),
    ]
    assert await available(api, "A.JPY") == "1500"
    refused = await post(api, transfer("10", "FX.USD"), {**legs[1], "amount": "3501"})
    assert refused.json()["code"] == "insufficient_available"
    assert [await available(api, each) for each in ("A", "A.JPY")] == ["90.00", "1500"]


@pytest.mark.parametrize("path", [TRANSFERS, GROUPS])
async def test_what_is_not_there_is_not_found(
    api: httpx.AsyncClient, accounts: None, path: str
) -> None:
    single = (await sent(api)).json()["transaction_id"]
    group = (await post(api, transfer(), transfer("2"))).json()["transfers"]
    missing = [str(uuid4()), single, group[0]["credit_transaction_id"]]
    missing += [group[1]["transfer_id"]] if path == GROUPS else []
    for each in missing:
        answer = await api.get(f"{path}/{each}")
        assert (answer.status_code, answer.json()["code"]) == (404, "transfer_not_found")
    answer = await api.get(f"{path}/x")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


async def test_a_key_may_be_required(settings: Settings) -> None:
    http = msgspec.structs.replace(settings.http, require_idempotency_key=True)
    async with serving(msgspec.structs.replace(settings, http=http)) as api:
        await opened(api)
        await opened(api, "B")
        answer = await post(api, transfer())
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required")
        assert (await post(api, transfer(), key="k")).status_code == 201
        assert (await post(api, transfer(id=str(uuid4())))).status_code == 201
        # Its accounts are known by now.
        answer = await post(api, transfer())
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required")
