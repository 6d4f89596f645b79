"""What the service answers. Amounts are decimals, instants are aware; fields this version does not
know are passed over, so that a newer service can be talked to.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec

Type = Literal["debit", "credit"]
Frozen = Literal["none", "debit", "credit", "all"]
Basis = Literal["booked", "effective"]
HoldStatus = Literal["HELD", "CAPTURED", "RELEASED", "EXPIRED"]
DeliveryStatus = Literal["delivered", "dead"]
EventType = Literal[
    "transaction.accepted",
    "transaction.reversed",
    "transaction.settled",
    "hold.placed",
    "hold.captured",
    "hold.released",
    "hold.expired",
]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account's configuration; `etag` goes into `if_match`, and is missing in lists."""

    account_id: str
    currency: str
    credit_limit: Decimal
    metadata: dict[str, str]
    frozen: str
    closed: bool
    version: int
    created_at: datetime
    updated_at: datetime
    etag: str | None = None
    replayed: bool = False


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A debit or credit of one account; `replayed` when it had been accepted before."""

    transaction_id: UUID
    account_id: str
    amount: Decimal
    type: str
    currency: str
    status: str
    mode: str
    timestamp: datetime
    updated_at: datetime | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    transfer_id: UUID | None = None
    other_account_id: str | None = None
    effective_at: datetime | None = None
    reverses: UUID | None = None
    reversed_by: UUID | None = None
    hold_id: UUID | None = None
    replayed: bool = False


class ForeseenAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account as a request would leave it."""

    account_id: str
    currency: str
    available_balance: Decimal


class ForeseenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold as a request would leave it."""

    hold_id: UUID
    status: str
    captured: Decimal
    released: Decimal
    remaining: Decimal


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a request that would not be refused; nothing was changed."""

    dry_run: Literal[True]
    outcome: str
    accounts: list[ForeseenAccount]
    transaction_id: UUID | None = None
    hold: ForeseenHold | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why one transaction of several was not accepted."""

    code: str
    detail: str
    retryable: bool
    pointer: str | None = None
    available: Decimal | None = None
    requested: Decimal | None = None


class ForeseenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of one transaction of several, or its `problem`."""

    success: bool
    replayed: bool = False
    transaction_id: UUID | None = None
    problem: Problem | None = None


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one transaction of several: the `transaction`, or its `problem`."""

    success: bool
    transaction: Transaction | None = None
    problem: Problem | None = None
    replayed: bool = False


R = TypeVar("R", BulkResult, ForeseenResult)


class _Results(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    results: list[R]

    @property
    def refused(self) -> list[tuple[int, Problem]]:
        """What was not accepted, with its place in the request."""
        return [
            (n, each.problem) for n, each in enumerate(self.results) if each.problem is not None
        ]


class Bulk(_Results[BulkResult], frozen=True, kw_only=True):
    """One result for each transaction, in order."""


class ForeseenBulk(_Results[ForeseenResult], frozen=True, kw_only=True):
    """What would become of each transaction, in order; nothing was changed."""

    dry_run: Literal[True]
    accounts: list[ForeseenAccount]


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A balance at one instant; available = settled + credits - debits + limit."""

    account_id: str
    currency: str
    settled_balance: Decimal
    pending_debit: Decimal
    pending_credit: Decimal
    available_balance: Decimal
    credit_limit: Decimal
    version: int
    last_updated: datetime
    held: Decimal = Decimal(0)


class BalanceAt(msgspec.Struct, frozen=True, kw_only=True):
    """A balance as of an instant; `is_final` when it can never change any more."""

    account_id: str
    currency: str
    at: datetime
    by: str
    balance: Decimal
    watermark: datetime
    is_final: bool


class StatementRow(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a statement, and the balance after it."""

    transaction_id: UUID
    booked_at: datetime
    type: str
    amount: Decimal
    balance: Decimal
    status: str
    effective_at: datetime | None = None
    reference: str | None = None
    transfer_id: UUID | None = None
    other_account_id: str | None = None
    reverses: UUID | None = None
    hold_id: UUID | None = None


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what moved an account; the balances are those before and after its rows."""

    account_id: str
    currency: str
    start: datetime = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    opening_balance: Decimal
    rows: list[StatementRow]
    closing_balance: Decimal
    watermark: datetime
    is_final: bool
    next_cursor: str | None = None


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """What is accepted and not settled: count and totals of all of it, and a page of items."""

    account_id: str
    currency: str
    count: int
    total: Decimal
    total_debit: Decimal
    total_credit: Decimal
    items: list[Transaction]
    next_cursor: str | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A movement from one account to another; its id is also that of its debit."""

    transfer_id: UUID
    group_id: UUID
    debit_account_id: str
    credit_account_id: str
    credit_transaction_id: UUID
    amount: Decimal
    currency: str
    status: str
    mode: str
    timestamp: datetime
    updated_at: datetime | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    hold_id: UUID | None = None
    replayed: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Transfers that were done together."""

    group_id: UUID
    transfers: list[Transfer]
    replayed: bool = False


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """An amount that is set aside, and what became of it."""

    hold_id: UUID
    account_id: str
    amount: Decimal
    captured: Decimal
    released: Decimal
    remaining: Decimal
    currency: str
    status: str
    version: int
    mode: str
    timestamp: datetime
    updated_at: datetime
    credit_account_id: str | None = None
    expires_at: datetime | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    replayed: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened on an account; it may be told twice, with the same `id`.

    `sequence` orders all events as text does, and as a cursor means what comes after this one.
    """

    id: str
    type: str
    account_id: str
    occurred_at: datetime
    sequence: str
    data: dict[str, Any]

    @property
    def subject(self) -> Transaction | Hold:
        """What it happened to, as it was then."""
        kind: type[Transaction | Hold] = Hold if self.type.startswith("hold.") else Transaction
        return msgspec.convert(self.data, kind)


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """A page of events in order, and where to go on."""

    events: list[Event]
    next_cursor: str


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of events by HTTP; everything before `cursor` was told or given up."""

    webhook_id: UUID
    url: str
    status: str
    cursor: str
    created_at: datetime
    updated_at: datetime
    types: list[str] | None = None
    account_id: str | None = None
    reason: str | None = None


class NewWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook as it was made, with the secret that its events are signed with."""

    secret: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event at a webhook: `delivered`, or `dead` where it was given up."""

    status: str
    event_id: str
    event_type: str
    account_id: str
    sequence: str
    tries: int
    http_status: int | None = None
    detail: str | None = None
    ended_at: datetime | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the instance works, in one word: healthy, degraded or unavailable."""

    status: str
    mode: str
    epoch: int


class HealthDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Every component, who decides, and how far behind settlement is."""

    status: str
    ready: bool
    mode: str
    epoch: int
    settler_lag_ms: int
    queue_items: int
    components: dict[str, dict[str, Any]]
    features: dict[str, bool]
    controls: dict[str, Any] | None = None
    consistency: dict[str, Any] | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared with what, and what differs."""

    status: str
    complete: bool
    mode: str
    epoch: int
    compared: dict[str, int]
    mismatches: list[dict[str, Any]]
    duration_ms: float
    verified_at: datetime
