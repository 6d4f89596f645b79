"""The load generator against a real service, and against a server that misbehaves."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.load.accounts import account_names
from bench.load.figures import figures_of
from bench.load.measure import Plan
from bench.load.mix import Mix
from bench.load.progress import Progress
from bench.load.report import write_load_report
from bench.load.scenarios import Scenario, Settings, hold_scenario
from bench.load.schedule import Schedule
from bench.load.sender import Job, Sender, SenderError
from bench.load.service import Place, Service, ServiceError

ANSWER = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_load_on_a_private_service_is_exact_to_the_cent(tmp_path: Path) -> None:
    scenario = Scenario(
        rates=(300.0,), duration_s=2.0, ramp_s=0.5, account_count=5, plan=Plan((), duplicates=0.2)
    )
    settings = Settings(
        place=Place(private=True, settings={"SETTLEMENT_INTERVAL": "200ms"}), ceiling=False
    )
    result = await hold_scenario(scenario, settings, Progress())
    (step,) = result.steps
    assert [check.name for check in step.checks if not check.passed] == []
    assert len(step.checks) == 10
    assert step.figures.accepted == step.figures.transactions == 525
    assert step.figures.replays > 50
    assert sum(line.change.transactions for line in step.accounts) + step.figures.replays == 525
    assert result.passed
    assert "Balance integrity: Passed" in write_load_report(tmp_path, result, raw=True).read_text()


@asynccontextmanager
async def misbehaving(
    drop_every: int = 0, pause_s: float = 0.0, hangs: int = 0
) -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server that closes the connection at every so many-th request instead of answering, and
    leaves the first few without an answer.
    """
    seen = Counter[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            seen["requests"] += 1
            if drop_every and seen["requests"] % drop_every == 0:
                seen["dropped"] += 1
                break
            await asyncio.sleep(30 if seen["requests"] <= hangs else pause_s)
            writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


async def sent(url: str, **job: float) -> Sender:
    schedule = Schedule(200, 1)
    sender = Sender(Job((url,), schedule=schedule, mix=Mix("run", ("ACC001",)), **job))  # type: ignore[arg-type]
    await sender.connect()
    return sender


async def test_a_lost_connection_is_a_lost_request_and_is_made_again() -> None:
    async with misbehaving(drop_every=10) as (url, seen):
        sender = await sent(url, connections=4)
        record = await sender.run(time.monotonic_ns(), lambda _sender: True)
    figures = figures_of([record], Schedule(200, 1), 1)
    assert figures.words == {"accepted": 180, "lost": 20}
    assert (seen["requests"], seen["dropped"], record.reconnects) == (200, 20, 20)


async def test_one_slow_connection_makes_the_others_wait_and_the_rest_unsent() -> None:
    async with misbehaving(pause_s=0.1) as (url, seen):
        sender = await sent(url, connections=1, backlog_max=5)
        record = await sender.run(time.monotonic_ns(), lambda _sender: True)
    figures = figures_of([record], Schedule(200, 1), 1)
    assert figures.words["accepted"] == seen["requests"]
    assert figures.words["not sent"] == 200 - seen["requests"]
    # Who waits behind five others has waited for five answers.
    assert figures.latency.p95_us >= 400_000


async def test_a_request_without_an_answer_is_lost_and_its_connection_replaced() -> None:
    async with misbehaving(hangs=1) as (url, _):
        sender = await sent(url, connections=1, timeout_s=0.3)
        record = await sender.run(time.monotonic_ns(), lambda _sender: True)
    assert figures_of([record], Schedule(200, 1), 1).words == {"accepted": 199, "lost": 1}
    assert record.reconnects == 1


async def test_a_stop_ends_a_run_early_and_counts_only_what_was_due() -> None:
    async with misbehaving() as (url, _):
        sender = await sent(url, connections=2)
        record = await sender.run(
            time.monotonic_ns(), lambda running: running.recorder.accepted < 50
        )
    words = figures_of([record], Schedule(200, 1), 1).words
    assert set(words) == {"accepted"}
    assert 50 <= words["accepted"] < 200


async def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SenderError):
        await sent("http://127.0.0.1:9", connections=1)


def test_a_running_service_keeps_its_own_accounts_to_itself() -> None:
    running = Service(urls=("http://127.0.0.1:8082",), is_private=False)
    assert account_names(1, running) == ("ACC001",)
    assert account_names(5, running)[-1] == "MULTI005"
    with pytest.raises(ServiceError):
        account_names(6, running)
    private = Service(urls=(), is_private=True)
    assert len(set(account_names(10_000, private))) == 10_000
