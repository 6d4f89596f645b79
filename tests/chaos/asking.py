"""Sends one request, and says what its answer tells: what the API document promises, no more."""

from typing import Any, Protocol

from tests.chaos.client import Answer, HttpClient, Lost, NotSent
from tests.chaos.history import Outcome, Sending

_NOTHING_CHANGED = frozenset({409, 429, 503})
_OUTCOME_UNKNOWN_CODES = frozenset({"journal_outcome_unknown", "outcome_unknown"})
_DECIDED_CODES = frozenset({"version_mismatch", "already_reversed"})
_OK, _CREATED = 200, 201


class Clock(Protocol):
    """Counts the run's seconds."""

    @property
    def now_s(self) -> float:
        """Seconds since it began."""
        ...


async def ask(
    client: HttpClient,
    api: str,
    path: str,
    body: dict[str, Any],
    key: str | None,
    patience_s: float,
    clock: Clock,
) -> Sending:
    """Send a request; what came back, whatever it was."""
    started = clock.now_s
    headers = {"Idempotency-Key": key} if key is not None else {}
    try:
        answer = await client.request("POST", path, patience_s, body, headers)
        return judge(answer, api, started, clock.now_s)
    except NotSent as exc:
        return not_sent(exc, api, started, clock.now_s)
    except Lost as exc:
        return lost(exc, api, started, clock.now_s)


def not_sent(exc: NotSent, api: str, started: float, ended: float) -> Sending:
    """Say that nothing was sent."""
    return Sending(api, started, ended, Outcome.NOT_SENT, code=_first_word(exc))


def lost(exc: Lost, api: str, started: float, ended: float) -> Sending:
    """Say that there is no answer."""
    return Sending(api, started, ended, Outcome.UNKNOWN, code=_first_word(exc))


def judge(answer: Answer, api: str, started: float, ended: float) -> Sending:
    """Say what an answer tells."""
    sending = Sending(api, started, ended, Outcome.BROKEN, answer.status, answer=answer.body)
    fields = sending.fields
    sending.code = str(fields.get("code", ""))
    sending.replayed = answer.headers.get("idempotency-replayed") == "true"
    if answer.status in (_OK, _CREATED):
        is_told = fields.get("success") is True or "hold_id" in fields
        sending.outcome = Outcome.ACCEPTED if is_told else Outcome.BROKEN
    else:
        sending.outcome = outcome_of(answer.status, sending.code)
    return sending


def outcome_of(status: int, code: str) -> Outcome:
    """Say what a problem tells."""
    if code in _OUTCOME_UNKNOWN_CODES:
        return Outcome.UNKNOWN
    if status in _NOTHING_CHANGED and code and code not in _DECIDED_CODES:
        return Outcome.DEFERRED
    return Outcome.REFUSED if 400 <= status < 500 else Outcome.BROKEN


def _first_word(exc: Exception) -> str:
    return str(exc).split(":", maxsplit=1)[0]
