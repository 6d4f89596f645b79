"""The private servers: they answer, keep what they should, and never outlive who started them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis as redis_sync

from app.infra.child_process import EmbeddedServerError, end_left_over
from app.infra.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    find_redis_binaries,
    start_postgres,
    start_redis,
)
from app.infra.server_binaries import postgres_binaries

ROOT = Path(__file__).resolve().parents[2]


def fetch_value(server: EmbeddedPostgres, *statements: str) -> Any:
    """Run statements and return the value of the last."""

    async def run() -> Any:
        connection = await asyncpg.connect(server.url, timeout=10)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds; fails past the time-out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "still not true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and more than an uncollected exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A durable private PostgreSQL of this module's own."""
    server = start_postgres(servers_folder / "embedded-postgres", print)
    yield server
    server.stop()


@pytest.fixture(params=find_redis_binaries(), ids=lambda path: path.name)
def redis(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[EmbeddedRedis]:
    """A private Redis or Valkey of this module's own."""
    folder = servers_folder / f"embedded-redis-{request.param_index}"
    server = start_redis(folder, binary=request.param)
    yield server
    server.stop()


def test_postgres_is_durable_and_keeps_its_data_and_port_over_a_stop(
    postgres: EmbeddedPostgres, servers_folder: Path
) -> None:
    fetch_value(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    url = postgres.url
    postgres.stop()
    assert postgres.pid == 0
    again = start_postgres(servers_folder / "embedded-postgres", print)
    try:
        assert again.url == url
        assert (
            fetch_value(again, "SELECT answer FROM kept", "DROP TABLE kept", "SHOW fsync") == "on"
        )
        assert fetch_value(again, "SHOW synchronous_commit") == "on"
        assert fetch_value(again, "SHOW listen_addresses") == "127.0.0.1"
    finally:
        again.stop()


def test_postgres_keeps_what_was_committed_before_a_kill(postgres: EmbeddedPostgres) -> None:
    fetch_value(postgres, "CREATE TABLE survivor AS SELECT 7 AS answer")
    postgres.kill()
    assert postgres.pid == 0
    postgres.start()
    assert fetch_value(postgres, "SELECT answer FROM survivor") == 7
    fetch_value(postgres, "DROP TABLE survivor")


def test_a_cluster_of_a_version_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 9"):
        postgres_binaries(tmp_path)


def test_an_interrupted_creation_is_begun_again(tmp_path: Path, servers_folder: Path) -> None:
    folder = servers_folder / "embedded-interrupted"
    unfinished = folder / "cluster.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = start_postgres(folder, print, durable=False)
    try:
        assert fetch_value(server, "SELECT current_database()") == "subbalance"
    finally:
        server.stop()


def test_redis_forgets_everything_over_a_kill_and_returns_on_its_port(redis: EmbeddedRedis) -> None:
    url = redis.url
    with redis_sync.Redis.from_url(url) as client:
        client.set("a", "1")
        redis.kill()
        assert redis.pid == 0
        redis.start()
        assert redis.url == url
        assert client.get("a") is None


def test_redis_never_evicts_and_writes_no_file(redis: EmbeddedRedis) -> None:
    with redis_sync.Redis.from_url(redis.url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_server_left_over_by_an_earlier_run_is_ended_and_its_port_kept(
    redis: EmbeddedRedis,
) -> None:
    left_over_pid = redis.pid
    again = start_redis(redis.log.parent)
    try:
        assert again.url == redis.url
        assert not is_running(left_over_pid)
    finally:
        again.stop()


def test_a_server_that_works_elsewhere_is_left_alone(redis: EmbeddedRedis, tmp_path: Path) -> None:
    end_left_over(tmp_path, frozenset({"redis-server", "valkey-server"}), signal.SIGKILL)
    assert is_running(redis.pid)


def test_the_servers_end_when_the_process_that_started_them_is_killed(servers_folder: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from app.infra.embedded import start_postgres, start_redis\n"
        "folder = Path(sys.argv[1])\n"
        "postgres = start_postgres(folder / 'embedded-postgres', lambda text: None)\n"
        "redis = start_redis(folder / 'embedded-orphan')\n"
        "print(postgres.pid, redis.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(servers_folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    wait_for(lambda: not any(is_running(pid) for pid in pids))
