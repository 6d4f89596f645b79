"""Health over HTTP, of a working instance and of one that lost its Redis."""

from typing import Any

import httpx
import pytest

from tests.conftest import eventually


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
async def test_a_working_instance_is_healthy(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")


async def test_a_working_instance_is_alive_and_ready(api: httpx.AsyncClient) -> None:
    assert (await api.get("/health/live")).status_code == 200
    assert (await api.get("/health/ready")).status_code == 200


async def test_the_details_name_every_component(api: httpx.AsyncClient) -> None:
    details = (await api.get("/health/detailed")).json()
    assert set(details["components"]) == {
        "postgres",
        "redis",
        "circuit_breaker",
        "settler",
        "admission",
    }
    assert all(component["ok"] for component in details["components"].values())
    assert details["mode"] == "redis"
    assert details["epoch"] >= 1
    assert details["settler_lag_ms"] >= 0
    assert details["features"]["test_mode"] is True


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_without_fallback_a_redis_that_shuts_us_out_makes_an_instance_unready(
    api: httpx.AsyncClient, redis_client: Any
) -> None:
    redis_client.config_set("requirepass", "changed")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    try:

        async def is_unready() -> bool:
            return (await api.get("/health/ready")).status_code == 503

        await eventually(is_unready)
        assert (await api.get("/health/live")).status_code == 200
        details = (await api.get("/health/detailed")).json()
        assert details["components"]["redis"]["ok"] is False
        assert details["components"]["postgres"]["ok"] is True
        status = (await api.get("/health")).json()["status"]
        assert status != "healthy"
    finally:
        redis_client.config_set("requirepass", "")
