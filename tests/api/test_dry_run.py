"""`?dry_run=true`: what would happen, and nothing changed."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from app.ledger.store import LedgerStore
from app.settings import Settings
from tests.api.test_transactions import opened
from tests.conftest import serving

TRANSFERS, GROUPS = "/api/v1/transfers", "/api/v1/groups"
TRANSACTION = "/api/v1/transaction"
NOWHERE = UUID(int=1)


async def dry(
    api: httpx.AsyncClient, path: str, key: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return await api.post(f"{path}?dry_run=true", json=fields, headers=headers)


def debit(amount: str = "40", **more: Any) -> dict[str, Any]:
    return {"account_id": "A", "amount": amount, "type": "debit", **more}


def transfer(amount: str, **more: Any) -> dict[str, Any]:
    return {"debit_account_id": "A", "credit_account_id": "B", "amount": amount, **more}


async def books(database: Any) -> dict[str, Any]:
    """Everything that is written, each table by its number of rows and what they say."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    said = "count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text))"
    return {
        name: tuple(await database.fetchrow(f"SELECT {said} FROM {name} t")) for (name,) in tables
    }


@pytest.fixture
async def accounts(api: httpx.AsyncClient) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")


async def test_it_says_what_accounts_would_have_and_changes_nothing(
    api: httpx.AsyncClient, accounts: None, database: Any
) -> None:
    before = await books(database)
    account = {"account_id": "A", "currency": "USD", "available_balance": "60.00"}
    foreseen = {"dry_run": True, "outcome": "accepted", "transaction_id": None}
    answer = await dry(api, TRANSACTION, "k", **debit())
    assert answer.status_code == 200
    assert answer.json() == foreseen | {"accounts": [account]}
    answer = await dry(api, TRANSFERS, "k", **transfer("40"))
    other = {"account_id": "B", "currency": "USD", "available_balance": "40.00"}
    assert answer.json() == foreseen | {"accounts": [account, other]}
    answer = await dry(api, GROUPS, "k", transfers=[transfer("15"), transfer("25")])
    assert answer.json() == foreseen | {"accounts": [account, other]}
    assert await books(database) == before
    first = await api.post(TRANSACTION, json=debit(), headers={"idempotency-key": "k"})
    assert first.status_code == 201


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        (TRANSACTION, debit("101"), "insufficient_available"),
        (TRANSACTION, debit("1.001"), "amount_too_precise"),
        (TRANSACTION, debit(account_id="nobody"), "account_not_found"),
        (TRANSACTION, debit(expect={"version": 9}), "version_mismatch"),
        (TRANSACTION, debit(expect={"available_at_least": "101"}), "available_below_expected"),
        (TRANSFERS, transfer("101"), "insufficient_available"),
        (TRANSFERS, transfer("1", credit_account_id="nobody"), "account_not_found"),
        (GROUPS, {"transfers": [transfer("60"), transfer("41")]}, "insufficient_available"),
    ],
)
async def test_what_would_be_refused_is_refused_alike(
    api: httpx.AsyncClient,
    accounts: None,
    database: Any,
    path: str,
    fields: dict[str, Any],
    code: str,
) -> None:
    before = await books(database)
    foreseen = await dry(api, path, **fields)
    assert await books(database) == before
    told = await api.post(path, json=fields)
    assert foreseen.status_code == told.status_code >= 400
    assert foreseen.json()["code"] == code
    mine, real = ({**each.json(), "request_id": ""} for each in (foreseen, told))
    assert mine == real


async def test_a_repetition_is_foreseen(api: httpx.AsyncClient, accounts: None) -> None:
    first = await api.post(TRANSACTION, json=debit(), headers={"idempotency-key": "k"})
    moved = await api.post(TRANSFERS, json=transfer("10"), headers={"idempotency-key": "t"})
    again = (await dry(api, TRANSACTION, "k", **debit())).json()
    assert again["outcome"] == "replayed"
    assert again["transaction_id"] == first.json()["transaction_id"]
    assert again["accounts"][0]["available_balance"] == "50.00"
    again = (await dry(api, TRANSFERS, "t", **transfer("10"))).json()
    assert (again["outcome"], again["transaction_id"]) == ("replayed", moved.json()["transfer_id"])
    for path, key, fields in (
        (TRANSACTION, "k", debit("41")),
        (TRANSFERS, "k", transfer("1")),
        (TRANSACTION, "t", debit()),
    ):
        refused = await dry(api, path, key, **fields)
        assert refused.json()["code"] == "idempotency_key_reused"


async def test_a_reversal_is_foreseen(api: httpx.AsyncClient, accounts: None) -> None:
    original = (await api.post(TRANSACTION, json=debit())).json()["transaction_id"]
    path = f"/api/v1/transactions/{original}/reversal"
    foreseen = (await dry(api, path)).json()
    assert foreseen["accounts"][0]["available_balance"] == "100.00"
    assert "reversed_by" not in (await api.get(f"/api/v1/transactions/{original}")).json()
    await api.post(path)
    assert (await dry(api, path)).json()["outcome"] == "replayed"
    assert (await dry(api, path, "other")).json()["code"] == "already_reversed"


async def test_what_is_accepted_while_it_is_foreseen_is_a_repetition(
    api: httpx.AsyncClient, accounts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, sent = LedgerStore.requests_by_identity, []

    async def after_the_real_one(store: LedgerStore, identities: Any) -> Any:
        if not sent:
            headers = {"idempotency-key": "k"}
            sent.append(await api.post(TRANSACTION, json=debit(), headers=headers))
        return await look_up(store, identities)

    monkeypatch.setattr(LedgerStore, "requests_by_identity", after_the_real_one)
    foreseen = await dry(api, TRANSACTION, "k", **debit())
    assert foreseen.json()["outcome"] == "replayed"
    assert foreseen.json()["transaction_id"] == sent[0].json()["transaction_id"]


@pytest.mark.parametrize("value", ["", "yes", "1", "true&dry_run=false"])
async def test_anything_but_true_or_false_is_refused(
    api: httpx.AsyncClient, accounts: None, database: Any, value: str
) -> None:
    before = await books(database)
    answer = await api.post(f"{TRANSACTION}?dry_run={value}", json=debit())
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
    assert await books(database) == before
    assert (await api.post(f"{TRANSACTION}?dry_run=false", json=debit())).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("POST", "/api/v1/webhooks", {"url": "https://8.8.8.8/"}),
        ("PATCH", f"/api/v1/webhooks/{NOWHERE}", {"enabled": False}),
        ("DELETE", f"/api/v1/webhooks/{NOWHERE}", None),
        ("POST", f"/api/v1/webhooks/{NOWHERE}/replay", {"from": "2026-01-01T00:00:00Z"}),
        ("POST", "/test/accounts", {"accounts": [{"account_id": "C"}]}),
        ("DELETE", "/test/cleanup", None),
    ],
)
async def test_what_has_no_dry_run_is_refused_and_not_done(
    api: httpx.AsyncClient,
    accounts: None,
    database: Any,
    method: str,
    path: str,
    fields: dict[str, Any] | None,
) -> None:
    before = await books(database)
    answer = await api.request(method, f"{path}?dry_run=true", json=fields)
    assert (answer.status_code, answer.json()["pointer"]) == (400, "/dry_run")
    assert await books(database) == before


@pytest.mark.parametrize(
    ("method", "path", "wrong"),
    [
        ("POST", "/api/v1/transaction?dryrun=true", "/dryrun"),
        ("POST", "/api/v1/transactions?dry_run=false&dry-run=true", "/dry-run"),
        ("POST", "/api/v1/holds?atomic=true", "/atomic"),
        ("GET", "/api/v1/balance/A?att=2026-01-01T00:00:00Z", "/att"),
        ("GET", "/api/v1/holds?account_id=A&stauts=HELD", "/stauts"),
        ("GET", "/api/v1/events?metadata.a=b", "/metadata.a"),
        ("GET", "/api/v1/accounts?metadata=b", "/metadata"),
    ],
)
async def test_a_parameter_that_is_not_there_is_refused_and_nothing_done(
    api: httpx.AsyncClient, accounts: None, database: Any, method: str, path: str, wrong: str
) -> None:
    """Who mistypes `dry_run` does not want the money moved."""
    before = await books(database)
    answer = await api.request(method, path, json=debit() if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
    assert answer.json()["pointer"] == wrong
    assert await books(database) == before


async def test_what_is_frozen_is_foreseen_without_redis_as_well(
    settings: Settings, redis_client: Any
) -> None:
    async with serving(settings) as api:
        await opened(api)
        await api.patch("/api/v1/accounts/A", json={"frozen": "debit"})
        assert (await dry(api, TRANSACTION, **debit())).json()["code"] == "account_frozen"
        redis_client.flushall()
        assert (await dry(api, TRANSACTION, **debit())).json()["code"] == "account_frozen"
