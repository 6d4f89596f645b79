"""What both clients do when answers are lost, late, refused or nonsense: money moves once."""

import time
from collections.abc import Callable
from decimal import Decimal

import httpx
import msgspec
import pytest

from subbalance import (
    InsufficientAvailable,
    InvariantViolation,
    NewTransaction,
    OutcomeUnknown,
    Policy,
    Rejected,
    Unavailable,
)
from subbalance.account_calls import get_account
from subbalance.attempts import Attempts, Pause
from subbalance.call import Answer
from tests.client.calling import Ledger
from tests.client.flaky import (
    DONE_AND_CUT,
    DONE_AND_GARBAGE,
    DONE_AND_HALF,
    DONE_AND_NONSENSE,
    DRIP,
    HANG,
    PASS,
    Behaviour,
    answering,
    flaky,
)

Connect = Callable[..., Ledger]
PROBLEM = "application/problem+json"


def problem(status: int, code: str, retryable: bool, **headers: str) -> Behaviour:
    body = msgspec.json.encode({"code": code, "detail": "it is so", "retryable": retryable})
    return answering(f"{status} X", body, content_type=PROBLEM, **headers)


@pytest.fixture
async def account(ledger: Ledger, a: str) -> None:
    await ledger.open_account(a, opening_balance=100)


@pytest.mark.parametrize(
    "trouble",
    [
        DONE_AND_CUT,
        DONE_AND_GARBAGE,
        DONE_AND_HALF,
        DONE_AND_NONSENSE,
        answering("503 Service Unavailable"),
        answering("502 Bad Gateway", b"<html>", content_type="text/html"),
        answering("504 Gateway Timeout"),
        answering("429 Too Many Requests"),
        problem(503, "overloaded", True),
        problem(503, "journal_outcome_unknown", True),
        problem(409, "request_in_flight", True),
        problem(408, "body_timeout", True),
    ],
)
async def test_what_may_pass_is_tried_again_under_one_key(
    connect: Connect, ledger: Ledger, account: None, url: str, trouble: Behaviour, a: str
) -> None:
    with flaky(url, trouble, trouble, PASS) as server:
        done = await connect(server.url).debit(a, 10)
    assert done.amount == Decimal(10)
    assert len(server.seen) == 3
    assert len(set(server.keys)) == 1
    assert None not in server.keys
    assert len({each.body for each in server.seen}) == 1
    assert (await ledger.get_balance(a)).available_balance == Decimal(90)


@pytest.mark.parametrize("trouble", [DONE_AND_CUT, DONE_AND_GARBAGE, DONE_AND_HALF])
async def test_after_the_last_unclear_attempt_the_outcome_is_said_to_be_unknown(
    connect: Connect, ledger: Ledger, account: None, url: str, trouble: Behaviour, a: str
) -> None:
    with flaky(url, trouble) as server, pytest.raises(OutcomeUnknown) as unknown:
        await connect(server.url).debit(a, 10)
    error = unknown.value
    assert len(server.seen) == error.attempts == 4
    assert set(server.keys) == {error.idempotency_key}
    assert error.idempotency_key is not None
    assert error.idempotency_key in str(error)
    found = await ledger.find_transaction(error.idempotency_key)
    assert found.amount == Decimal(10)
    assert (await ledger.get_balance(a)).available_balance == Decimal(90)


@pytest.mark.parametrize(
    ("troubles", "kind"),
    [
        ([DONE_AND_CUT, problem(503, "overloaded", True)], OutcomeUnknown),
        ([problem(503, "journal_outcome_unknown", True)], OutcomeUnknown),
        ([problem(409, "request_in_flight", True)], OutcomeUnknown),
        ([answering("504 X")], OutcomeUnknown),
        ([problem(503, "overloaded", True)], Unavailable),
        ([answering("429 X")], Unavailable),
    ],
)
async def test_one_unclear_attempt_makes_the_outcome_unknown_and_none_does_not(
    connect: Connect, troubles: list[Behaviour], kind: type[Exception], url: str, a: str
) -> None:
    with flaky(url, *troubles) as server, pytest.raises((OutcomeUnknown, Unavailable)) as ended:
        await connect(server.url).debit(a, 1)
    assert type(ended.value) is kind
    assert len(server.seen) == 4


async def test_an_answer_that_drips_is_given_up_in_time(connect: Connect) -> None:
    policy = Policy(attempts=1, timeout_s=0.3)
    with flaky("", DRIP) as server:
        client = connect(server.url, policy)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no_answer"):
            await client.get_account("A")
        assert time.monotonic() - began < 2


async def test_a_hanging_service_costs_no_more_than_the_deadline(
    connect: Connect, ledger: Ledger, account: None, url: str, a: str, b: str
) -> None:
    policy = Policy(attempts=100, timeout_s=0.2, deadline_s=0.7, backoff_s=0.01)
    with flaky(url, HANG) as server:
        client = connect(server.url, policy)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no_answer"):
            await client.transfer(a, b, 1)
        took_s = time.monotonic() - began
    assert 0.5 < took_s < 3
    assert 2 <= len(server.seen) <= 5
    assert len(set(server.keys)) == 1


async def test_a_service_that_is_not_there_changed_nothing(
    connect: Connect, free_port: int, a: str
) -> None:
    client = connect(f"http://127.0.0.1:{free_port}")
    with pytest.raises(Unavailable) as error:
        await client.debit(a, 1)
    assert (error.value.code, error.value.attempts) == ("connection_failed", 4)


async def test_a_read_that_is_never_answered_is_unavailable(
    connect: Connect, url: str, a: str
) -> None:
    with flaky(url, DONE_AND_CUT) as server, pytest.raises(Unavailable, match="no_answer"):
        await connect(server.url).get_balance(a)
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (problem(422, "insufficient_available", False), Rejected),
        (problem(404, "account_not_found", False), Rejected),
        (problem(409, "account_exists", False), Rejected),
        (problem(500, "internal_error", False), InvariantViolation),
        (answering("403 Forbidden", b"<html>", content_type="text/html"), Rejected),
        (answering("500 Internal Server Error", b"<html>"), OutcomeUnknown),
        (answering("302 Found", location="/elsewhere"), Rejected),
    ],
)
async def test_what_is_definite_is_not_tried_again(
    connect: Connect, url: str, refusal: Behaviour, kind: type[Exception], a: str
) -> None:
    with flaky(url, refusal, PASS) as server, pytest.raises(kind):
        await connect(server.url).debit(a, 1)
    assert len(server.seen) == 1


async def test_a_refusal_after_an_unclear_attempt_says_so(
    connect: Connect, url: str, a: str
) -> None:
    unclear, clear = answering("504 X"), problem(503, "overloaded", True)
    refusal = problem(422, "insufficient_available", False)
    for trouble, is_unclear in ((unclear, True), (clear, False)):
        with (
            flaky(url, trouble, refusal) as server,
            pytest.raises(InsufficientAvailable) as refused,
        ):
            await connect(server.url).debit(a, 1)
        assert refused.value.earlier_unclear is is_unclear


async def test_a_precondition_that_the_lost_attempt_may_have_used_up_is_unclear(
    connect: Connect, ledger: Ledger, account: None, url: str, a: str
) -> None:
    etag = (await ledger.get_account(a)).etag
    with (
        flaky(url, DONE_AND_CUT, PASS) as server,
        pytest.raises(OutcomeUnknown, match="precondition_failed"),
    ):
        await connect(server.url).change_account(a, credit_limit=5, if_match=etag)
    assert (await ledger.get_account(a)).credit_limit == Decimal(5)


async def test_an_account_is_opened_once_whatever_is_lost(
    connect: Connect, ledger: Ledger, url: str, a: str
) -> None:
    with flaky(url, DONE_AND_CUT, PASS) as server:
        opened = await connect(server.url).open_account(a, opening_balance=100)
    assert opened.replayed
    assert (await ledger.get_balance(a)).available_balance == Decimal(100)


async def test_parts_of_a_bulk_request_that_may_pass_are_sent_again(
    connect: Connect, url: str, a: str
) -> None:
    open_part = {"code": "overloaded", "detail": "later", "retryable": True}
    body = msgspec.json.encode({"results": [{"success": False, "problem": open_part}]})
    wanted = [NewTransaction("nobody", "debit", 1, key=f"{a}-own")]
    with flaky(url, answering("200 OK", body), PASS) as server:
        answer = await connect(server.url).post_bulk(wanted)
    assert [each.code for _, each in answer.refused] == ["account_not_found"]
    assert len(server.seen) == 2
    with flaky(url, answering("200 OK", body)) as server:
        answer = await connect(server.url).post_bulk(wanted)
    assert [each.code for _, each in answer.refused] == ["overloaded"]
    assert len(server.seen) == 4


async def test_an_unwell_service_answers_how_it_is(connect: Connect, url: str) -> None:
    body = msgspec.json.encode({"status": "unavailable", "mode": "closed", "epoch": 3})
    with flaky(url, answering("503 X", body, content_type="application/json")) as server:
        assert (await connect(server.url).health()).status == "unavailable"
    assert len(server.seen) == 1


async def test_retry_after_is_waited_for(connect: Connect, account: None, url: str, a: str) -> None:
    with flaky(url, answering("503 X", retry_after="1"), PASS) as server:
        began = time.monotonic()
        await connect(server.url).debit(a, 1)
    assert time.monotonic() - began >= 1.0


async def test_retry_after_past_the_deadline_ends_the_call_at_once(
    connect: Connect, url: str, a: str
) -> None:
    with flaky(url, problem(503, "ledger_closed", True, retry_after="30")) as server:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="ledger_closed"):
            await connect(server.url).debit(a, 1)
    assert time.monotonic() - began < 5
    assert len(server.seen) == 1


async def test_an_answer_without_end_is_cut_off(
    connect: Connect, url: str, monkeypatch: pytest.MonkeyPatch, a: str
) -> None:
    monkeypatch.setattr("subbalance.limits.ANSWER_BYTES_MAX", 1_000)
    with (
        flaky(url, answering("200 OK", b"x" * 2_000)) as server,
        pytest.raises(Unavailable, match="larger than"),
    ):
        await connect(server.url).get_account(a)


def judged(*answers: Answer, policy: Policy | None = None) -> list[float]:
    """The pauses between attempts, drawn as long as they may be."""
    attempts = Attempts(
        get_account("A"), policy or Policy(deadline_s=1e12), lambda: 0.0, lambda _, longest: longest
    )
    pauses = []
    for answer in answers:
        attempts.begin()
        step = attempts.judge(answer)
        assert isinstance(step, Pause)
        pauses.append(step.seconds)
    return pauses


def test_pauses_double_up_to_their_longest() -> None:
    policy = Policy(attempts=9, deadline_s=1e9, backoff_s=0.1, backoff_max_s=1.0)
    assert judged(*[Answer(503, {}, b"")] * 6, policy=policy) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("2", 2.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("²", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e6),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, least: float) -> None:
    (pause,) = judged(Answer(503, {"retry-after": text}, b""))
    assert least <= pause
    assert least or pause <= 0.1


def test_a_pause_is_drawn_between_nothing_and_its_longest() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(shortest: float, longest: float) -> float:
        drawn.append((shortest, longest))
        return shortest

    attempts = Attempts(get_account("A"), Policy(), lambda: 0.0, draw)
    attempts.begin()
    assert attempts.judge(httpx.ConnectError("no")) == Pause(0.0)
    assert drawn == [(0.0, 0.1)]


def test_a_wrong_url_is_the_callers_mistake() -> None:
    attempts = Attempts(get_account("A"), Policy())
    attempts.begin()
    with pytest.raises(httpx.UnsupportedProtocol):
        attempts.judge(httpx.UnsupportedProtocol("ftp"))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"timeout_s": 0}, {"deadline_s": -1.0}])
def test_a_policy_leaves_room_for_an_attempt(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one attempt"):
        Policy(**wrong)  # type: ignore[arg-type]
