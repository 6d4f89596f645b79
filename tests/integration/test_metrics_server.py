"""The port of a process's own metrics: what it answers, and what it does while somebody has it."""

import asyncio
import socket

import pytest

from app.infra.metrics_server import serving_metrics
from app.run import _choose_metrics_port
from app.settings import Http, Settings
from tests.cluster import HOST, free_port
from tests.conftest import eventually


async def written() -> bytes:
    return b"up 1\n"


async def failing() -> bytes:
    raise RuntimeError("it cannot be counted")


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "line"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /metrics2 HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"nonsense\r\n\r\n", b""),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b""),
    ],
)
async def test_it_answers_one_path_and_ends_the_connection(
    request_bytes: bytes, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with serving_metrics(HOST, port, written):
        told = await asked(port, request_bytes)
    assert told.partition(b"\r\n")[0] == line
    assert told.endswith(b"up 1\n") == (b"200" in line)
    assert not caplog.records


async def test_it_goes_on_when_nothing_can_be_written() -> None:
    port = free_port()
    async with serving_metrics(HOST, port, failing):
        for _ in range(2):
            assert await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""


async def test_a_port_that_is_taken_is_listened_on_once_it_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = socket.create_server((HOST, 0))
    port = taken.getsockname()[1]
    async with serving_metrics(HOST, port, written):
        (warning,) = caplog.messages
        assert "no metrics are served yet" in warning
        taken.close()

        async def is_served() -> bool:
            try:
                return b"up 1" in await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n")
            except OSError:
                return False

        await eventually(is_served)
    with pytest.raises(ConnectionRefusedError):
        await asked(port, b"")


def test_make_run_shows_the_workers_metrics_after_the_api_to_this_machine_only() -> None:
    """Wherever the API listens, for nobody is asked for a key there."""
    with socket.create_server((HOST, 0)) as taken:
        for port, chosen in ((free_port(), True), (taken.getsockname()[1], False)):
            settings = Settings(http=Http(host="0.0.0.0", port=port - 1))
            environment: dict[str, str] = {}
            _choose_metrics_port(environment, settings)
            assert environment == ({"SUBBALANCE_WORKER_METRICS_PORT": str(port)} if chosen else {})
    assert settings.observation.metrics_host == HOST
    environment = {"SUBBALANCE_WORKER_METRICS_PORT": "1"}
    _choose_metrics_port(environment, settings)
    assert environment == {"SUBBALANCE_WORKER_METRICS_PORT": "1"}


async def test_without_a_port_there_is_none() -> None:
    async with serving_metrics(HOST, 0, failing):
        pass
