"""What `/metrics` of the API counts and times, as Prometheus reads it."""

import re

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.api.test_api_keys import bearer, guarded, make_key
from tests.conftest import serving

PATH = "/api/v1/transaction"
HOT = f"POST {PATH}"


async def samples(api: httpx.AsyncClient) -> dict[str, float]:
    """Each sample by its name and its labels, sorted."""
    text = (await api.get("/metrics")).text
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def named(name: str, **labels: str) -> str:
    return f"subbalance_{name}{sorted(labels.items()) or ''}"


async def post(api: httpx.AsyncClient, amount: str, kind: str, key: str) -> httpx.Response:
    body = {"account_id": "ACC", "amount": amount, "type": kind}
    return await api.post(PATH, json=body, headers={"Idempotency-Key": key})


async def open_account(api: httpx.AsyncClient) -> None:
    answer = await api.post("/test/accounts", json={"accounts": [{"account_id": "ACC"}]})
    assert answer.status_code == 201


async def test_requests_are_counted_by_what_became_of_them(api_both: httpx.AsyncClient) -> None:
    await open_account(api_both)
    assert (await post(api_both, "10", "credit", "a")).status_code == 201
    assert (await post(api_both, "10", "credit", "a")).status_code == 201
    assert (await post(api_both, "11", "debit", "b")).status_code == 422
    assert (await post(api_both, "0", "debit", "c")).status_code in (400, 422)
    found = await samples(api_both)
    for outcome in ("accepted", "replayed", "refused"):
        assert found[named("transactions_total", kind="single", outcome=outcome)] == 1
    assert found[named("refused_total", code="insufficient_available")] == 1
    assert found[named("http_requests_total", endpoint=HOT, status="201")] == 2
    assert found[named("problems_total", code="insufficient_available")] == 1
    assert found[named("http_request_seconds_count", endpoint=HOT)] == 4
    assert found[named("http_request_seconds_bucket", endpoint=HOT, le="+Inf")] == 4


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        (
            "/api/v1/transfers",
            {"debit_account_id": "ACC", "credit_account_id": "ACC2", "amount": "1"},
            {"credit_account_id": "NOBODY"},
        ),
        ("/api/v1/holds", {"account_id": "ACC", "amount": "1"}, {"account_id": "NOBODY"}),
    ],
)
async def test_transfers_and_holds_are_counted_as_well(
    api_both: httpx.AsyncClient, path: str, body: dict[str, str], wrong: dict[str, str]
) -> None:
    await open_account(api_both)
    await post(api_both, "10", "credit", "a")
    await api_both.post("/test/accounts", json={"accounts": [{"account_id": "ACC2"}]})
    for _ in range(3):
        assert (await api_both.post(path, json=body)).status_code == 201
    assert (await api_both.post(path, json=body | wrong)).status_code == 404
    found = await samples(api_both)
    hot = f"POST {path}"
    assert found[named("http_requests_total", endpoint=hot, status="201")] == 3
    assert found[named("http_requests_total", endpoint=hot, status="404")] == 1
    assert found[named("http_request_seconds_count", endpoint=hot)] == 4
    assert found[named("http_request_seconds_count", endpoint=HOT)] == 1
    assert found[named("problems_total", code="account_not_found")] == 1


async def test_every_step_of_a_batch_is_timed(api: httpx.AsyncClient) -> None:
    await open_account(api)
    await post(api, "10", "credit", "a")
    found = await samples(api)
    for step in ("validate", "wait", "admit", "load", "journal", "confirm", "batch"):
        assert found[named("step_seconds_count", step=step)] >= 1, step
        assert 0 <= found[named("step_seconds_sum", step=step)] < 30
    assert found[named("batch_items_bucket", kind="single", le="1.0")] == 1


async def test_bulk_requests_and_transfers_are_counted_by_kind(api: httpx.AsyncClient) -> None:
    await open_account(api)
    items = [{"account_id": "ACC", "amount": "1", "type": "credit"}] * 3
    key = {"Idempotency-Key": "whole"}
    bulk = await api.post("/api/v1/transactions", json={"transactions": items}, headers=key)
    assert bulk.is_success
    transfer = {"debit_account_id": "ACC", "credit_account_id": "ACC2", "amount": "99"}
    await api.post("/test/accounts", json={"accounts": [{"account_id": "ACC2"}]})
    assert (await api.post("/api/v1/transfers", json=transfer)).status_code == 422
    found = await samples(api)
    assert found[named("transactions_total", kind="bulk", outcome="accepted")] == 3
    assert found[named("transactions_total", kind="group", outcome="refused")] == 1
    assert found[named("batch_items_sum", kind="bulk")] == 3


async def test_parts_are_shown_as_they_are(api: httpx.AsyncClient) -> None:
    found = await samples(api)
    assert found[named("breaker_state", state="closed")] == 1
    assert found[named("breaker_state", state="open")] == 0
    assert found[named("pool_connections", pool="reads", state="max")] == 6
    assert found[named("process_info", process="api")] == 1
    assert found[named("ready")] == 1
    assert found[named("switches_total", mode="redis", reason="redis_new")] == 1


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "router"])
async def test_what_the_guard_refuses_is_counted_where_it_was_to_go(
    settings: Settings, lane: bool
) -> None:
    read, limited = make_key(settings, "read"), make_key(settings, "write")
    rules = guarded(settings, lane=lane, rate_requests=4, rate_window_s=3_600)
    async with serving(rules) as api:
        for status, token in ((401, ""), (403, read), *[(404, limited)] * 4, (429, limited)):
            api.headers = httpx.Headers(bearer(token) if token else {})
            assert (await post(api, "1", "debit", "a")).status_code == status
        assert (await api.get("/nowhere")).status_code == 429
        assert (await api.get("/api/v1/balance/NOBODY")).status_code == 429
        api.headers = httpx.Headers(bearer(read))
        found = await samples(api)
    for status, count in (("401", 1), ("403", 1), ("404", 4), ("429", 1)):
        assert found[named("http_requests_total", endpoint=HOT, status=status)] == count
    assert found[named("http_requests_total", endpoint="unknown", status="429")] == 1
    balance = "GET /api/v1/balance/{account_id}"
    assert found[named("http_requests_total", endpoint=balance, status="429")] == 1
    assert found[named("http_request_seconds_count", endpoint=HOT)] == 7
    for code, count in (("api_key_missing", 1), ("scope_insufficient", 1), ("rate_limited", 3)):
        assert found[named("problems_total", code=code)] == count


async def test_what_a_client_writes_is_no_label(api: httpx.AsyncClient) -> None:
    assert (await api.get("/nothing/like/this")).status_code == 404
    assert (await api.get("/api/v1/balance/NOBODY")).status_code == 404
    text = (await api.get("/metrics")).text
    assert "like" not in text
    assert "NOBODY" not in text
    assert re.search(r'endpoint="GET /api/v1/balance/\{account_id\S*\}",status="404"', text)


async def test_without_metrics_only_the_state_is_shown(settings: Settings) -> None:
    observation = msgspec.structs.replace(settings.observation, metrics=False)
    async with serving(msgspec.structs.replace(settings, observation=observation)) as api:
        await open_account(api)
        assert (await post(api, "10", "credit", "a")).status_code == 201
        found = await samples(api)
    assert found[named("ready")] == 1
    # What sinks were told is read from the database.
    counted = [name for name in found if "events_" not in name]
    assert not [name for name in counted if "seconds_bucket" in name or "_total" in name]


@pytest.mark.reliability(breaker_failures=1)
async def test_metrics_answer_while_the_ledger_is_not_open(settings: Settings) -> None:
    nobody = msgspec.structs.replace(settings.postgres, url="postgresql://127.0.0.1:1/none")
    async with serving(msgspec.structs.replace(settings, postgres=nobody)) as api:
        found = await samples(api)
        assert found[named("ready")] == 0
        assert (await post(api, "1", "credit", "a")).status_code == 503
        assert (await samples(api))[named("problems_total", code="starting")] == 1
