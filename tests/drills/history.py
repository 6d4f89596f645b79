"""What clients did and what they were told: the side of the story that no server may change.

Instants are seconds of the monotonic clock. Amounts are integers of minor units.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tests.drills.client import LOST, Answer

ACCEPTED_STATUS = 201
_TOO_MANY, _SERVER_ERROR = 429, 500


class Outcome(StrEnum):
    """What a client knows of an intention."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Sending:
    """One request on the wire and its answer."""

    sent_at: float
    answered_at: float
    status: int
    code: str
    replayed: bool = False
    transaction_id: str | None = None
    mode: str | None = None
    accepted_as: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Tell whether it was answered 201."""
        return self.status == ACCEPTED_STATUS

    @property
    def is_decided(self) -> bool:
        """Tell whether it was accepted or refused for good, so that no repetition is due."""
        return self.is_accepted or (
            self.status != LOST and self.status < _SERVER_ERROR and self.status != _TOO_MANY
        )

    @property
    def latency_s(self) -> float:
        """How long the client waited."""
        return self.answered_at - self.sent_at


@dataclass(slots=True)
class Intention:
    """One movement a client wants, under one key, however often it had to be sent."""

    key: str
    account_id: str
    change_minor: int
    sendings: list[Sending] = field(default_factory=list)

    def note(self, sent_at: float, answered_at: float, answer: Answer) -> Sending:
        """Keep one sending and what came back."""
        accepted = answer.status == ACCEPTED_STATUS
        code = "" if accepted else str(answer.body.get("code", "lost"))
        sending = Sending(
            sent_at,
            answered_at,
            answer.status,
            code,
            answer.replayed,
            answer.body.get("transaction_id") if accepted else None,
            answer.body.get("mode") if accepted else None,
            answer.body.get("status") if accepted else None,
        )
        self.sendings.append(sending)
        return sending

    @property
    def acceptances(self) -> list[Sending]:
        """Every answer that said the movement was accepted."""
        return [sending for sending in self.sendings if sending.is_accepted]

    @property
    def outcome(self) -> Outcome:
        """What the client may rely on: any acceptance, else a definite refusal, else nothing."""
        if self.acceptances:
            return Outcome.ACCEPTED
        if self.sendings and self.sendings[-1].is_decided:
            return Outcome.REFUSED
        return Outcome.UNKNOWN

    @property
    def accepted_at(self) -> float | None:
        """When the client first learnt that it was accepted."""
        accepted = self.acceptances
        return accepted[0].answered_at if accepted else None


@dataclass(slots=True)
class History:
    """Everything the clients of a drill did, and the balances they began with."""

    openings: dict[str, int] = field(default_factory=dict)
    intentions: list[Intention] = field(default_factory=list)

    def intend(self, key: str, account_id: str, change_minor: int) -> Intention:
        """Keep an intention before its first sending, so that none is ever forgotten."""
        intention = Intention(key, account_id, change_minor)
        self.intentions.append(intention)
        return intention

    def sendings(self) -> Iterator[tuple[Intention, Sending]]:
        """Every sending with what it was meant for."""
        for intention in self.intentions:
            for sending in intention.sendings:
                yield intention, sending

    def with_outcome(self, outcome: Outcome) -> list[Intention]:
        """The intentions that ended so."""
        return [intention for intention in self.intentions if intention.outcome is outcome]
