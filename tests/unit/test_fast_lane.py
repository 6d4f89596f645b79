"""A connection's life on the fast lane, with a ledger that answers when the test wants it to."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
import uvicorn

from app import errors, limits
from app.api.fast_lane import FastLane
from app.api.starting import StartingLedger
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.codes import EntryStatus, Mode
from app.ledger.model import Acceptance, Account, Transaction, TransactionRequest
from app.ledger.routes import HOT_ROUTES
from app.ledger.service import LedgerService
from tests.api.ways import GOOD, Answer, Wire, bare, hot
from tests.conftest import eventually, listening, port_of

KEEP_ALIVE_S = 1
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = bare(b"GET /plain HTTP/1.1", b"Host: h")
REQUEST = hot(body=GOOD.replace(b"@@@", b"ACC"))


class SlowLedger:
    """Keeps every decision open until it is told what it is."""

    def __init__(self) -> None:
        self.open: list[asyncio.Future[Acceptance]] = []
        self.requests: list[TransactionRequest] = []

    def begin_transaction(self, request: TransactionRequest) -> "asyncio.Future[Acceptance]":
        self.requests.append(request)
        self.open.append(asyncio.get_running_loop().create_future())
        return self.open[-1]

    async def asked(self, count: int = 1) -> None:
        """Wait until so many requests have come in all."""
        await eventually(lambda: len(self.requests) >= count)

    def accept(self) -> None:
        """Accept the oldest open request."""
        decision = self.open.pop(0)
        account = Account(1, "ACC", "USD", 2)
        position = EntryPosition(len(self.requests), 0)
        transaction = Transaction(
            transaction_id=assigned_transaction_id(0, position),
            account=account,
            change_minor=-100,
            status=EntryStatus.PENDING,
            mode=Mode.REDIS,
            accepted_at=NOW,
            updated_at=NOW,
        )
        decision.set_result(Acceptance(transaction, replayed=False))


class Stage:
    """A server with the lane, a ledger, and a router that says `plain` when it is let."""

    def __init__(self) -> None:
        self.ledger: Any = SlowLedger()
        self.lane = FastLane(lambda: cast("LedgerService", self.ledger))
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.routed_count = 0
        self.server: Any = None

    async def router(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer what the lane does not take."""
        self.routed_count += 1
        while (await receive()).get("more_body"):
            pass
        await self.may_answer.wait()
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"plain"})

    def config(self) -> uvicorn.Config:
        """Describe the server."""
        return uvicorn.Config(
            self.router,
            port=0,
            http=self.lane.connection,  # type: ignore[arg-type]
            interface="asgi3",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
        )

    async def wire(self) -> Wire:
        """Connect."""
        return await Wire.to(port_of(self.server))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A running server, which the test may stop."""
    stage = Stage()
    async with listening(stage.config()) as server:
        stage.server = server
        yield stage


def code(answer: Answer | None) -> str:
    assert answer is not None
    return msgspec.json.decode(answer.body)["code"]


async def closed_within(wire: Wire, timeout_s: float) -> bool:
    """Tell whether the connection ends in time with nothing more said."""
    return await wire.answer(timeout_s) is None


async def test_a_request_is_answered_without_the_router(stage: Stage) -> None:
    async with await stage.wire() as wire:
        for number in range(1, 4):
            await wire.send(REQUEST)
            await stage.ledger.asked(number)
            stage.ledger.accept()
            answer = await wire.answer()
            assert answer is not None
            assert answer.status == 201
    assert (stage.lane.taken_count, stage.routed_count) == (3, 0)


async def test_requests_of_one_connection_are_decided_one_after_the_other(stage: Stage) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST + PLAIN + REQUEST)
        await stage.ledger.asked()
        await asyncio.sleep(0.05)
        assert (len(stage.ledger.requests), stage.routed_count) == (1, 0)
        stage.ledger.accept()
        answers = await wire.answers(3)
    assert [answer.status for answer in answers] == [201, 200, 200]
    assert (stage.lane.taken_count, stage.routed_count) == (1, 2)


async def test_a_request_behind_the_routers_waits_for_it(stage: Stage) -> None:
    stage.may_answer.clear()
    async with await stage.wire() as wire:
        await wire.send(PLAIN)
        await eventually(lambda: stage.routed_count)
        await wire.send(REQUEST)
        await asyncio.sleep(0.05)
        assert stage.lane.taken_count == 0
        stage.may_answer.set()
        assert [answer.body for answer in await wire.answers(2)] == [b"plain", b"plain"]
        await wire.send(REQUEST)
        await stage.ledger.asked()
    assert stage.lane.taken_count == 1


async def test_nonsense_behind_a_request_is_refused_after_its_answer(stage: Stage) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST + b"nonsense\r\n\r\n")
        await stage.ledger.asked()
        stage.ledger.accept()
        assert [answer.status for answer in await wire.answers(3)] == [201, 400]


async def test_nonsense_inside_a_connection_ends_it(stage: Stage) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST.replace(b"Host: h", b"Host h"))
        assert [answer.status for answer in await wire.answers(2)] == [400]
    assert stage.lane.taken_count == 0


async def test_an_idle_connection_is_closed_in_time_and_a_busy_one_is_not(stage: Stage) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST)
        await stage.ledger.asked()
        await asyncio.sleep(KEEP_ALIVE_S * 1.5)
        stage.ledger.accept()
        assert len(await wire.answers(1)) == 1
        started = time.monotonic()
        assert await closed_within(wire, 5 * KEEP_ALIVE_S)
        assert time.monotonic() - started > 0.8 * KEEP_ALIVE_S


async def test_a_request_behind_one_refused_at_once_is_not_idle_time(stage: Stage) -> None:
    stage.may_answer.clear()
    refused = REQUEST.replace(b"1.00", b"0.00")
    async with await stage.wire() as one, await stage.wire() as other:
        await one.send(refused + REQUEST)
        await other.send(refused + PLAIN)
        await stage.ledger.asked()
        await asyncio.sleep(KEEP_ALIVE_S * 1.5)
        stage.ledger.accept()
        stage.may_answer.set()
        assert [answer.status for answer in await one.answers(2)] == [400, 201]
        assert [answer.status for answer in await other.answers(2)] == [400, 200]


async def test_a_slow_body_is_refused_and_what_comes_of_it_later_is_not_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_READ_S", 0.2)
    async with await stage.wire() as wire:
        await wire.send(REQUEST[:-20])
        answer = await wire.answer()
        assert answer is not None
        assert (answer.status, code(answer)) == (408, "body_timeout")
        assert dict(answer.headers)["retry-after"] == "1"
        await wire.send(REQUEST[-20:] + REQUEST)
        await stage.ledger.asked()
        stage.ledger.accept()
        assert [answer.status for answer in await wire.answers(1)] == [201]
    assert len(stage.ledger.requests) == 1


async def test_a_body_in_time_is_not_refused_and_the_next_has_its_own_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_READ_S", 0.4)
    async with await stage.wire() as wire:
        for number in (1, 2):
            await wire.send(REQUEST[:-20])
            await asyncio.sleep(0.25)
            await wire.send(REQUEST[-20:])
            await stage.ledger.asked(number)
            stage.ledger.accept()
            assert [answer.status for answer in await wire.answers(1)] == [201]


async def test_a_large_body_is_refused_before_it_is_whole(stage: Stage) -> None:
    body = b" " * (4 * limits.BODY_BYTES_MAX)
    async with await stage.wire() as wire:
        request = hot(body=body)
        await wire.send(request[: 2 * limits.BODY_BYTES_MAX])
        answer = await wire.answer()
        assert (answer.status if answer else 0, code(answer)) == (413, "body_too_large")
        await wire.send(request[2 * limits.BODY_BYTES_MAX :] + PLAIN)
        assert [answer.body for answer in await wire.answers(1)] == [b"plain"]
    assert not stage.ledger.requests


async def test_a_client_that_leaves_takes_nothing_back_and_gets_nothing(stage: Stage) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST + PLAIN)
        await stage.ledger.asked()
    await eventually(lambda: not stage.server.server_state.connections)
    assert not stage.ledger.open[0].cancelled()
    stage.ledger.accept()
    await asyncio.sleep(0.05)
    assert stage.routed_count == 0, "what waited behind it was begun for nobody"
    async with await stage.wire() as wire:
        await wire.send(REQUEST[:-5])
        await eventually(lambda: stage.lane.taken_count == 2)
    await eventually(lambda: not stage.server.server_state.connections)
    assert len(stage.ledger.requests) == 1


async def test_stopping_answers_what_is_being_decided_and_closes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEAVE_S", 0.2)
    async with await stage.wire() as idle, await stage.wire() as busy, await stage.wire() as mixed:
        await busy.send(REQUEST)
        await stage.ledger.asked(1)
        await mixed.send(REQUEST + PLAIN)
        await stage.ledger.asked(2)
        stage.server.should_exit = True
        assert await closed_within(idle, 2)
        await busy.send(REQUEST)
        stage.ledger.accept()
        answers = await busy.answers(2)
        assert [answer.status for answer in answers] == [201]
        assert ("connection", "close") in answers[0].headers
        stage.ledger.accept()
        assert [answer.status for answer in await mixed.answers(3)] == [201, 200]
    assert len(stage.ledger.requests) == 2


async def test_a_client_that_never_reads_is_not_read_either(stage: Stage) -> None:
    def send_buffer() -> int:
        (connection,) = stage.server.server_state.connections
        return connection.transport.get_write_buffer_size()

    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(stage.server), limit=1)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    refused = REQUEST.replace(b"1.00", b"0.00")
    largest, stalled, sent = 0, 0, 0
    while stalled < 20 and sent < 200_000:
        size = writer.transport.get_write_buffer_size()
        if size < 65_536:
            writer.write(refused * 100)
            sent, stalled = sent + 100, 0
        else:
            stalled += 1
            await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        largest = max(largest, send_buffer())
    assert stalled == 20, "the server read everything"
    assert largest < 1_000_000
    writer.transport.abort()


FAILURES: dict[str, tuple[Callable[[], Exception], int, str]] = {
    "closed": (errors.LedgerClosed, 503, "30"),
    "unknown": (errors.JournalOutcomeUnknown, 503, "2"),
    "broken": (lambda: errors.InvariantViolation("sums differ"), 500, ""),
    "unexpected": (lambda: RuntimeError("secret"), 500, ""),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_is_a_problem_whenever_it_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str, at_once: bool
) -> None:
    make, status, retry_after = FAILURES[name]
    if at_once:

        def fail(_: TransactionRequest) -> None:
            raise make()

        monkeypatch.setattr(stage.ledger, "begin_transaction", fail)
    async with await stage.wire() as wire:
        await wire.send(REQUEST)
        if not at_once:
            await stage.ledger.asked()
            stage.ledger.open[0].set_exception(make())
        answer = await wire.answer()
    assert answer is not None
    headers = dict(answer.headers)
    assert answer.status == status
    assert headers["content-type"] == "application/problem+json"
    assert headers.get("retry-after", "") == retry_after
    assert b"secret" not in answer.body
    problem = msgspec.json.decode(answer.body)
    assert problem["request_id"] == headers["x-request-id"]
    assert ("account_id" in problem) == (name != "unexpected")


async def test_a_decision_that_was_cancelled_ends_the_connection_without_a_word(
    stage: Stage,
) -> None:
    async with await stage.wire() as wire:
        await wire.send(REQUEST)
        await stage.ledger.asked()
        stage.ledger.open[0].cancel()
        assert await closed_within(wire, 2)


async def test_a_ledger_that_is_not_open_yet_says_so(stage: Stage) -> None:
    stage.ledger = StartingLedger()
    async with await stage.wire() as wire:
        await wire.send(REQUEST)
        assert code(await wire.answer()) == "starting"
        for path in HOT_ROUTES:  # what is wrong already is not to be sent again
            await wire.send(hot(body=b"{}", start=b"POST %b HTTP/1.1" % path))
            assert code(await wire.answer()) == "missing_field"
    assert stage.lane.taken_count == 1 + len(HOT_ROUTES)


async def test_one_error_of_a_whole_batch_is_told_to_each_in_its_own_words(stage: Stage) -> None:
    shared = errors.PostgresUnavailable()
    async with await stage.wire() as one, await stage.wire() as other:
        await one.send(REQUEST)
        await stage.ledger.asked(1)
        await other.send(REQUEST.replace(b"ACC", b"BCC"))
        await stage.ledger.asked(2)
        for decision in stage.ledger.open:
            decision.set_exception(shared)
        for wire, account in ((one, "ACC"), (other, "BCC")):
            answer = await wire.answer()
            assert answer is not None
            assert msgspec.json.decode(answer.body)["account_id"] == account
    assert shared.members == {}


async def test_a_server_that_ends_answers_one_more_request_and_says_that_it_closes() -> None:
    stage = Stage()
    async with listening(stage.config()) as server:
        stage.server = server
        async with await stage.wire() as hot, await stage.wire() as plain:
            await plain.send(PLAIN)
            assert (await plain.answer()) is not None
            await hot.send(REQUEST)
            await stage.ledger.asked()
            stage.ledger.accept()
            assert (await hot.answer()) is not None
            server.should_exit = True
            await eventually(lambda: not server.servers[0].sockets)
            await hot.send(REQUEST)
            await stage.ledger.asked(2)
            stage.ledger.accept()
            await plain.send(PLAIN)
            for wire in (hot, plain):
                answer = await wire.answer()
                assert answer is not None
                assert ("connection", "close") in answer.headers
                assert await closed_within(wire, 1)


async def test_a_server_that_ends_closes_what_stays_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEAVE_S", 0.2)
    stage = Stage()
    async with listening(stage.config()) as server:
        stage.server = server
        async with await stage.wire() as wire:
            await eventually(lambda: server.server_state.connections)
            server.should_exit = True
            assert await closed_within(wire, 2)
