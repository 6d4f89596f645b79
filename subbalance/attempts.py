"""What follows an attempt: done, once more after a pause, or an error. Nothing here does I/O.

Repeated is only what may succeed when repeated: no connection, no answer or an unreadable one, 429,
502, 503, 504, and problems that say `retryable`. Every attempt sends the same key.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from subbalance import errors, limits
from subbalance.call import Answer, Call

T = TypeVar("T")
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOT_OURS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_PASSING = {429, 502, 503, 504}
_SERVER_ERROR = 500
_USUAL = {"type", "problem_type", "title", "status", "http_status", "detail", "code", "retryable"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How long a call may take and how often it is sent; times in seconds.

    `timeout_s` bounds one attempt, `deadline_s` and `attempts` all of them with their pauses.
    """

    attempts: int = limits.ATTEMPTS
    timeout_s: float = limits.TIMEOUT_S
    deadline_s: float = limits.DEADLINE_S
    backoff_s: float = limits.BACKOFF_S
    backoff_max_s: float = limits.BACKOFF_MAX_S

    def __post_init__(self) -> None:
        """Refuse a policy under which nothing would ever be sent."""
        if self.attempts < 1 or self.timeout_s <= 0 or self.deadline_s <= 0:
            raise ValueError("a call needs at least one attempt and some time")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The call succeeded."""

    value: T


@dataclass(frozen=True, slots=True)
class Pause:
    """The call is to be sent again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that did not succeed: what is known of it, and whether it may have been done."""

    code: str
    detail: str
    is_unclear: bool
    http_status: int | None = None
    pointer: str | None = None
    members: Mapping[str, Any] | None = None
    wait_s: float = 0.0
    cause: BaseException | None = None


class Attempts(Generic[T]):
    """The attempts of one call, from the first to the last."""

    def __init__(
        self,
        call: Call[T],
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Begin the call's time."""
        self._call = call
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._ends_at = clock() + max(policy.deadline_s, call.patience_s)
        self._count = 0
        self._earlier_unclear = False

    def begin(self) -> float:
        """Count an attempt; returns the seconds that it may take."""
        self._count += 1
        longest_s = max(self._policy.timeout_s, self._call.patience_s)
        return max(0.001, min(longest_s, self._ends_at - self._clock()))

    def judge(self, outcome: Answer | httpx.HTTPError) -> Done[T] | Pause:
        """Say what follows an attempt; raises the error that the call ends with."""
        if isinstance(outcome, httpx.HTTPError):
            return self._again(_of_transport(outcome))
        if outcome.status in self._call.good:
            return self._read(outcome)
        problem = _problem_of(outcome)
        if problem is None:
            return self._judge_foreign(outcome)
        failure = _of_problem(outcome, problem)
        if problem.get("retryable") is True or outcome.status in _PASSING:
            return self._again(failure)
        raise self._definite(failure)

    def _read(self, answer: Answer) -> Done[T] | Pause:
        """Read a good answer; one that has still open parts is asked for again, or is the last."""
        try:
            value = self._call.read(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as exc:
            detail = f"The answer cannot be read: {exc}"
            failure = _Failure(
                "unreadable_answer", detail, is_unclear=True, http_status=answer.status, cause=exc
            )
            return self._again(failure)
        if self._call.is_whole(value):
            return Done(value)
        pause_s = self._pause_s(_retry_after_s(answer))
        return Done(value) if pause_s is None else Pause(pause_s)

    def _judge_foreign(self, answer: Answer) -> Pause:
        """Judge what is not the service's own word: a proxy's, or another program's."""
        detail = f"HTTP {answer.status} without a problem of the ledger's."
        code, status = f"http_{answer.status}", answer.status
        is_unclear = status >= _SERVER_ERROR
        failure = _Failure(
            code, detail, is_unclear, http_status=status, wait_s=_retry_after_s(answer)
        )
        if status in _PASSING:
            return self._again(failure)
        if is_unclear:
            raise self._open(failure)
        raise self._definite(failure)

    def _again(self, failure: _Failure) -> Pause:
        """Pause before another attempt, or end the call where there may be none."""
        may_repeat = self._call.may_repeat or not failure.is_unclear
        pause_s = self._pause_s(failure.wait_s) if may_repeat else None
        if pause_s is None:
            raise self._open(failure) from failure.cause
        self._earlier_unclear |= failure.is_unclear
        return Pause(pause_s)

    def _pause_s(self, wait_s: float) -> float | None:
        """Draw the pause, at least as long as the service asks for; None when it cannot be had."""
        policy = self._policy
        ceiling_s = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** (self._count - 1))
        pause_s = wait_s + self._draw(0.0, ceiling_s)
        if self._count >= policy.attempts or self._clock() + pause_s >= self._ends_at:
            return None
        return pause_s

    def _open(self, failure: _Failure) -> errors.LedgerError:
        """End a call that was not decided."""
        is_unclear = self._earlier_unclear or failure.is_unclear
        if self._call.is_write and is_unclear:
            return self._error(errors.OutcomeUnknown, failure)
        return self._error(errors.Unavailable, failure)

    def _definite(self, failure: _Failure) -> errors.LedgerError:
        """End a call that was decided.

        A precondition that fails after an unclear attempt may have been met by that attempt.
        """
        status = failure.http_status or _SERVER_ERROR
        if status == HTTPStatus.PRECONDITION_FAILED and self._earlier_unclear:
            return self._error(errors.OutcomeUnknown, failure)
        if status >= _SERVER_ERROR:
            return self._error(errors.InvariantViolation, failure)
        if failure.code == "insufficient_available":
            return self._error(errors.InsufficientAvailable, failure)
        if status == HTTPStatus.NOT_FOUND:
            return self._error(errors.NotFound, failure)
        return self._error(errors.Rejected, failure)

    def _error(self, kind: type[errors.LedgerError], failure: _Failure) -> errors.LedgerError:
        return kind(
            failure.code,
            failure.detail,
            http_status=failure.http_status,
            pointer=failure.pointer,
            members=failure.members,
            idempotency_key=self._call.key,
            attempts=self._count,
            earlier_unclear=self._earlier_unclear,
        )


def _of_transport(error: httpx.HTTPError) -> _Failure:
    """Tell a request that never left from one that has no answer; a wrong one is the caller's."""
    if isinstance(error, _NOT_OURS):
        raise error
    said = str(error) or type(error).__name__
    if isinstance(error, _NOT_SENT):
        return _Failure("connection_failed", f"No connection: {said}", False, cause=error)
    return _Failure("no_answer", f"Sent, and no whole answer: {said}", True, cause=error)


def _of_problem(answer: Answer, problem: dict[str, Any]) -> _Failure:
    code = str(problem["code"])
    members = {name: value for name, value in problem.items() if name not in {*_USUAL, "pointer"}}
    return _Failure(
        code,
        str(problem.get("detail", code)),
        is_unclear=code.endswith("outcome_unknown") or code == "request_in_flight",
        http_status=answer.status,
        pointer=problem.get("pointer"),
        members=members,
        wait_s=_retry_after_s(answer),
    )


def _problem_of(answer: Answer) -> dict[str, Any] | None:
    """Read a problem of the service's; None for what is none."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return problem if isinstance(problem, dict) and isinstance(problem.get("code"), str) else None


def _retry_after_s(answer: Answer) -> float:
    """Read Retry-After, seconds or a date; 0 where there is none that can be read."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
