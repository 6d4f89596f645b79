"""The figures of the dashboard over HTTP: true, bounded, and shared by those who listen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from app import limits
from app.ledger.store import LedgerStore
from app.main import server_config
from app.settings import Settings
from tests.conftest import eventually, listening, port_of, serving

Snapshot = dict[str, Any]


@asynccontextmanager
async def listening_to(api: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[Snapshot]]:
    async def snapshots(answer: httpx.Response) -> AsyncIterator[Snapshot]:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield msgspec.json.decode(line.removeprefix("data: "))

    async with api.stream("GET", "/api/v1/live") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield snapshots(answer)


def metrics_of(answer: httpx.Response) -> dict[str, float]:
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def open_account(api: httpx.AsyncClient, account_id: str, opening: str) -> None:
    body = {"account_id": account_id, "opening_balance": opening}
    assert (await api.post("/api/v1/accounts", json=body)).status_code == 201


async def post(api: httpx.AsyncClient, kind: str, amount: str) -> int:
    body = {"account_id": "A", "amount": amount, "type": kind}
    return (await api.post("/api/v1/transaction", json=body)).status_code


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent for reads."""
    sent: list[str] = []
    original = LedgerStore.fetch_sql

    async def noted(self: LedgerStore, sql: str, *arguments: Any) -> Any:
        sent.append(sql)
        return await original(self, sql, *arguments)

    monkeypatch.setattr(LedgerStore, "fetch_sql", noted)
    return sent


async def test_the_figures_of_now_are_counted(api: httpx.AsyncClient) -> None:
    await open_account(api, "A", "10")
    assert [await post(api, "credit", "1") for _ in range(3)] == [201] * 3
    assert await post(api, "debit", "1000") == 422
    now = (await api.get("/api/v1/metrics/realtime")).json()
    assert now["mode"] == "redis"
    assert now["pending_count"] == 4
    assert now["success_rate"] == 0.75
    assert now["failed_last_1h"] == 1
    assert now["settled_today"] == 0
    assert now["queue_depth"] == 0
    assert now["latency_ms"]["count"] == 5
    assert 0 < now["latency_ms"]["p50"] <= now["latency_ms"]["p99"]


async def test_a_listener_sees_what_is_done_second_by_second(api: httpx.AsyncClient) -> None:
    await open_account(api, "A", "10")
    async with listening_to(api) as snapshots:
        first = await anext(snapshots)
        assert await post(api, "credit", "1.25") == 201
        async for each in snapshots:
            assert each["number"] > first["number"]
            counted = [second["entries"] for second in each["ledger"]["seconds"]]
            if sum(counted) == 2:
                break
        (last, opening) = each["ledger"]["recent"]
        assert (last["account_id"], last["amount"], last["type"]) == ("A", "1.25", "credit")
        assert opening["reference"] == "opening balance"
        assert len(counted) == limits.LIVE_SECONDS_SHOWN
        assert each["ledger"]["hot_accounts"][0]["account_id"] == "A"
        assert each["ledger"]["epochs"][0]["mode"] == "redis"
        assert each["process"]["accepted"] == 1


async def test_what_is_shown_of_a_process_is_what_its_metrics_say(api: httpx.AsyncClient) -> None:
    await open_account(api, "A", "10")
    assert await post(api, "credit", "1") == 201
    assert await post(api, "debit", "1000") == 422
    items = [{"account_id": "A", "amount": amount, "type": "debit"} for amount in ("1", "999")]
    assert (await api.post("/api/v1/transactions", json={"transactions": items})).status_code == 200
    assert (await api.get("/api/v1/balance/NOBODY")).status_code == 404
    async with listening_to(api) as snapshots:
        process = (await anext(snapshots))["process"]
    assert (process["accepted"], process["refused"]) == (2, {"insufficient_available": 2})
    assert process["problems"] == {"account_not_found": 1, "insufficient_available": 1}
    samples = metrics_of(await api.get("/metrics"))
    assert samples['subbalance_refused_total{code="insufficient_available"}'] == 2
    accepted = [value for name, value in samples.items() if 'outcome="accepted"' in name]
    assert sum(accepted) == process["accepted"]
    answers = [
        value
        for name, value in samples.items()
        if name.startswith('subbalance_http_request_seconds_count{endpoint="POST ')
    ]
    assert sum(answers) == process["latency_ms"]["count"]


async def test_a_feed_is_timed_to_its_beginning(api: httpx.AsyncClient) -> None:
    async with listening_to(api) as snapshots:
        await anext(snapshots)
        samples = metrics_of(await api.get("/metrics"))
        of_feeds = '{endpoint="GET /api/v1/live"}'
        assert samples[f"subbalance_http_request_seconds_count{of_feeds}"] == 1
        for _ in range(2):
            await anext(snapshots)
    samples = metrics_of(await api.get("/metrics"))
    assert samples[f"subbalance_http_request_seconds_count{of_feeds}"] == 1
    assert samples[f"subbalance_http_request_seconds_sum{of_feeds}"] < limits.LIVE_SAMPLE_S


async def test_without_metrics_nothing_is_known_of_the_process(settings: Settings) -> None:
    observation = msgspec.structs.replace(settings.observation, metrics=False)
    async with serving(msgspec.structs.replace(settings, observation=observation)) as api:
        await open_account(api, "A", "10")
        async with listening_to(api) as snapshots:
            first = await anext(snapshots)
        assert first["process"] is None
        assert first["ledger"]["recent"]
        now = (await api.get("/api/v1/metrics/realtime")).json()
        assert (now["success_rate"], now["failed_last_1h"], now["latency_ms"]) == (None,) * 3
        assert now["pending_count"] == 1


async def test_many_listeners_cost_as_much_as_one_and_none_cost_nothing(
    settings: Settings, asked: list[str]
) -> None:
    config = server_config(settings)
    async with listening(config) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as api:
            await many_listen(api, asked)
            await eventually(lambda: not config.live.is_sampling)


async def many_listen(api: httpx.AsyncClient, asked: list[str]) -> None:
    def looks() -> int:
        return sum("clock_timestamp() AS now, date_trunc" in sql for sql in asked)

    async def hear(count: int) -> list[int]:
        async with listening_to(api) as snapshots:
            return [(await anext(snapshots))["number"] for _ in range(count)]

    heard = await asyncio.gather(*(hear(3) for _ in range(10)))
    numbers = {number for each in heard for number in each}
    assert len(numbers) <= 5
    assert looks() <= len(numbers) + 1


async def test_one_listener_too_many_is_refused(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIVE_LISTENERS_MAX", 1)
    async with listening_to(api) as snapshots:
        await anext(snapshots)
        refused = await api.get("/api/v1/live")
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_listeners")

    async def is_free() -> bool:
        try:
            async with listening_to(api) as snapshots:
                return bool(await anext(snapshots))
        except AssertionError:
            return False

    await eventually(is_free)


async def test_pages_let_nothing_in_from_elsewhere_and_are_sent_once(
    api: httpx.AsyncClient,
) -> None:
    for path in ("/", "/accounts/A", "/web/shared.js", "/web/style.css"):
        answer = await api.get(path)
        assert answer.status_code == 200
        (policy,) = answer.headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        again = await api.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert b"http://" not in answer.content.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in answer.content
    for path in ("/web/nothing.js", "/web/..%2froutes.py", "/web/routes.py"):
        assert (await api.get(path)).status_code == 404
