"""Which requests get a line in the log, and what is in it."""

import logging

import httpx
import msgspec
import pytest

from app import limits
from app.settings import Settings
from tests.api.test_api_keys import bearer, guarded, make_key
from tests.api.test_metrics import open_account, post
from tests.conftest import serving


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    found = [record for record in caplog.records if record.name == "app.api.observer"]
    return [record.__dict__.get("fields", {}) for record in found]


def observed(settings: Settings, *, lane: bool = True, **changes: object) -> Settings:
    observation = msgspec.structs.replace(settings.observation, **changes)
    http = msgspec.structs.replace(settings.http, direct_route=lane)
    return msgspec.structs.replace(settings, observation=observation, http=http, log_level="info")


@pytest.mark.parametrize("lane", [True, False])
async def test_only_what_was_refused_gets_a_line(
    lane: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(observed(settings, lane=lane, slow_request_ms=120_000)) as api:
        await open_account(api)
        await post(api, "10", "credit", "a")
        refused = await post(api, "11", "debit", "b")
        reused = await post(api, "12", "credit", "a")
        assert reused.status_code == 422
        assert (await api.get("/api/v1/balance/NOBODY")).status_code == 404
    first, second, third = lines(caplog)
    assert first["request_id"] == refused.headers["x-request-id"]
    assert first["code"] == "insufficient_available"
    assert second["code"] == "idempotency_key_reused"
    assert third["code"] == "account_not_found"


@pytest.mark.parametrize("lane", [True, False])
async def test_what_the_guard_refuses_gets_a_line_without_the_key(
    lane: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    read = make_key(settings, "read")
    wrong = read[:-1] + ("0" if read[-1] != "0" else "1")
    rules = guarded(observed(settings, lane=lane), lane=lane, rate_requests=2, rate_window_s=3_600)
    answers = []
    async with serving(rules) as api:
        for token in ("", wrong, read, read, read):
            api.headers = httpx.Headers(bearer(token) if token else {})
            answers.append(await post(api, "1", "debit", "a"))
    told = lines(caplog)
    assert [(line["status"], line["code"]) for line in told] == [
        (401, "api_key_missing"),
        (401, "api_key_invalid"),
        (403, "scope_insufficient"),
        (403, "scope_insufficient"),
        (429, "rate_limited"),
    ]
    named = [answer.headers["x-request-id"] for answer in answers]
    assert [line["request_id"] for line in told] == named
    assert {line["endpoint"] for line in told} == {"POST /api/v1/transaction"}
    assert read[16:] not in caplog.text + str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("lane", [True, False])
async def test_a_line_names_the_transaction(
    lane: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(observed(settings, lane=lane, access_log=True)) as api:
        await open_account(api)
        accepted = (await post(api, "10", "credit", "a")).json()
        assert (await post(api, "12", "credit", "a")).status_code == 422
    _, first, second = lines(caplog)
    assert [first["status"], second["code"]] == [201, "idempotency_key_reused"]
    for line in (first, second):
        assert str(line["transaction_id"]) == accepted["transaction_id"]


@pytest.mark.parametrize("lane", [True, False])
async def test_a_slow_one_gets_a_line_and_all_of_them_where_that_is_wanted(
    lane: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chosen: tuple[dict[str, int], ...] = (
        {"slow_request_ms": 0},
        {"access_log": True, "metrics": False},
    )
    for number, changes in enumerate(chosen):
        caplog.clear()
        async with serving(observed(settings, lane=lane, **changes)) as api:
            await open_account(api)
            await post(api, "10", "credit", f"key-{number}")
        statuses = [line["status"] for line in lines(caplog)]
        assert statuses == [201, 201]


async def test_a_flood_of_refusals_is_counted_instead(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    most, now = limits.REQUEST_LINES_PER_SECOND_MAX, [100.0]
    monkeypatch.setattr("app.api.observer.monotonic", lambda: now[0])
    async with serving(observed(settings)) as api:
        for _ in range(most + 5):
            await api.get("/nothing")
        assert len(lines(caplog)) == most
        now[0] += 1
        await api.get("/nothing")
    count, line = lines(caplog)[most:]
    assert (count, line["status"]) == ({}, 404)
    assert "5 more requests were refused, failed or slow" in caplog.text
