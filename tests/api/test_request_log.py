"""Which requests get a line in the log, and what is in it."""

import logging

import msgspec
import pytest

from app import limits
from app.settings import Settings
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
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    most = limits.REQUEST_LINES_PER_SECOND_MAX
    async with serving(observed(settings)) as api:
        for _ in range(3 * most):
            await api.get("/nothing")
            if any("more requests" in record.getMessage() for record in caplog.records):
                break
        else:
            # A machine too slow for a flood has written every line.
            assert len(lines(caplog)) == 3 * most
