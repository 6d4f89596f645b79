"""What the clients asked for and what they were told: every sending, with its instants.

An operation is one intention: all its sendings carry the same body and, if it has any, the same
identities. Instants are seconds since the run began.
"""

import math
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


def fields_of(body: bytes) -> dict[str, Any]:
    """The members of a JSON object, none when it is something else."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class Outcome(StrEnum):
    """What a client knows after one sending."""

    ACCEPTED = "accepted"  # 2xx
    REFUSED = "refused"  # 4xx: decided, nothing changed
    DEFERRED = "deferred"  # 409, 429, 503: this sending changed nothing, another one may succeed
    UNKNOWN = "unknown"  # time-out, connection lost, or said to be unknown
    NOT_SENT = "not_sent"  # no connection
    BROKEN = "broken"  # 5xx that is no 503, or an answer that makes no sense


class Sending(msgspec.Struct):
    """One request and what came back."""

    api: str
    started_s: float
    ended_s: float
    outcome: Outcome
    status: int = 0
    code: str = ""
    replayed: bool = False
    answer: bytes = b""
    is_other_body: bool = False  # the same key with another amount
    of_bulk: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The members of the answer."""
        return fields_of(self.answer)


class HoldAct(msgspec.Struct, eq=False):
    """Something to be done to a hold under a key of its own; without an amount all is captured."""

    kind: str
    key: str
    amount_minor: int | None = None
    final: bool = False
    sendings: list[Sending] = []

    @property
    def accepted(self) -> list[Sending]:
        """The sendings that were answered 2xx."""
        return [each for each in self.sendings if each.outcome is Outcome.ACCEPTED]


class Operation(msgspec.Struct, eq=False):
    """One intention; `reference` names it in the journal, whether it has a key or not.

    One with `transfers`, as (debit, credit, amount in minor units), is a group of them; its account
    and amount are those of the first one's debit. One that `holds` sets its amount aside, for
    `hold_for` if anybody, and `acts` are what was tried with it. One with a `version` expects its
    account to have that, as it was read; one that `reverses` takes that transaction back.
    """

    reference: str
    account_id: str
    amount: str
    amount_minor: int
    is_credit: bool
    key: str | None = None
    transaction_id: str | None = None
    sendings: list[Sending] = []
    transfers: list[tuple[str, str, int]] = []
    holds: bool = False
    hold_for: str | None = None
    expires_in_s: int | None = None
    acts: list[HoldAct] = []
    version: int | None = None
    reverses: str | None = None
    may_go_alone: bool = True  # not where it is all or nothing with others

    @property
    def movements(self) -> list[tuple[str, int]]:
        """The accounts it moves, each by a signed amount, all of them or none."""
        if not self.transfers:
            return [(self.account_id, self.change_minor)]
        debits = [(debit, -amount) for debit, _, amount in self.transfers]
        return debits + [(credit, amount) for _, credit, amount in self.transfers]

    @property
    def is_named(self) -> bool:
        """Tell whether it may be sent again."""
        return self.key is not None or self.transaction_id is not None

    @property
    def change_minor(self) -> int:
        """The signed amount."""
        return self.amount_minor if self.is_credit else -self.amount_minor

    @property
    def accepted(self) -> list[Sending]:
        """The sendings of the right body that were answered 2xx, in order of their answers."""
        found = [sending for sending in self.sendings if sending.outcome is Outcome.ACCEPTED]
        return sorted(
            (sending for sending in found if not sending.is_other_body),
            key=lambda sending: sending.ended_s,
        )

    def summary(self) -> dict[str, Any]:
        """All of it, for a report, with instants rounded to the millisecond."""
        own = {name: getattr(self, name) for name in ("account_id", "amount", "is_credit", "key")}
        sent = []
        for sending in self.sendings:
            at = f"{sending.started_s:.3f}-{sending.ended_s:.3f} {sending.api}"
            notes = [str(sending.outcome), str(sending.status), sending.code]
            notes += ["replayed"] * sending.replayed + ["other body"] * sending.is_other_body
            sent.append(" ".join([at, *filter(None, notes)]))
        own["transfers"] = self.transfers
        return {**own, "id": self.transaction_id, "sendings": sent}


class Bulk(msgspec.Struct, eq=False):
    """Transactions that were sent by one request; its key, if any, names them all."""

    operations: list[Operation]
    key: str | None = None
    is_atomic: bool = False

    @property
    def is_named(self) -> bool:
        """Tell whether it may be sent again."""
        return self.key is not None or all(each.is_named for each in self.operations)


class Account(NamedTuple):
    """An account the run opened."""

    account_id: str
    currency: str
    exponent: int
    opening_minor: int
    credit_limit_minor: int
    heat: str


class Rule(msgspec.Struct, eq=False):
    """What an account allows, known from an answer until the next request."""

    frozen: str
    credit_limit: str
    from_s: float
    until_s: float = math.inf
    is_told_right: bool = True


class BalanceRead(NamedTuple):
    """A balance that was shown."""

    account_id: str
    api: str
    started_s: float
    ended_s: float
    credit_limit: str
    available: str


class Invisible(NamedTuple):
    """An accepted transaction that a read begun after its acceptance did not find."""

    operation: Operation
    api: str
    at_s: float
    detail: str


class History:
    """Everything the clients did, in memory; bounded by the length and the rate of the run."""

    def __init__(self) -> None:
        """Begin empty."""
        self.accounts: dict[str, Account] = {}
        self.operations: list[Operation] = []
        self.invisible: list[Invisible] = []
        self.rules: dict[str, list[Rule]] = {}
        self.balances: list[BalanceRead] = []
        self.bulks: list[Bulk] = []
        self.reads = 0

    def count_by_outcome(self) -> dict[str, int]:
        """How often each outcome was seen, refusals and deferrals by their code."""
        counts: dict[str, int] = {}
        for operation in self.operations:
            for sending in operation.sendings:
                name = str(sending.outcome)
                if sending.outcome is Outcome.ACCEPTED:
                    name += " (replayed)" if sending.replayed else ""
                elif sending.code:
                    name += f" {sending.code}"
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def accepted_instants(self) -> list[tuple[float, float, str]]:
        """When each acceptance was asked for and given, and by which API, in order."""
        found = [
            (sending.started_s, sending.ended_s, sending.api)
            for operation in self.operations
            for sending in operation.accepted
        ]
        return sorted(found)
