"""Frozen values of the ledger and the rules that need no I/O."""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec

from app import errors, limits
from app.kit.money import DecimalText, decimal_text, minor_units
from app.ledger.codes import Direction, EntryStatus, Frozen, Mode

EXTERNAL_PREFIX, HOLDING_PREFIX = "external:", "holding:"
DEFAULT_SCOPE = 0
_ACCOUNT_ID = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9_.:-]{{0,{limits.ACCOUNT_ID_LENGTH_MAX - 1}}}", re.ASCII
)


class Account(msgspec.Struct, frozen=True):
    """What never changes about an account, so that any process may remember it."""

    account_no: int
    account_id: str
    currency: str
    exponent: int


class AccountDetails(msgspec.Struct, frozen=True, kw_only=True):
    """An account's configuration; `config_version` counts its changes, `version` its entries."""

    account: Account
    credit_limit_minor: int
    metadata: dict[str, str]
    frozen: Frozen
    closed: bool
    config_version: int
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """What names this configuration of the account."""
        return f'"{self.config_version}"'


class AccountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to open an account; amounts in minor units."""

    account_id: str
    currency: str
    exponent: int
    opening_minor: int = 0
    credit_limit_minor: int = 0
    metadata: dict[str, str] = {}


class AccountChange(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to change an account; what is None stays as it is.

    `config_versions` are those that the change may be made to, None for any.
    """

    credit_limit: DecimalText | None = None
    frozen: Frozen | None = None
    metadata: dict[str, str] | None = None
    closed: bool = False
    config_versions: tuple[int, ...] | None = None


class AccountFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which accounts a list has; what is None does not matter."""

    currency: str | None = None
    frozen: Frozen | None = None
    closed: bool | None = None
    metadata: dict[str, str] = {}


class AccountsPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of accounts in order of their number."""

    accounts: tuple[AccountDetails, ...]
    next_cursor: str | None


class Identity(NamedTuple):
    """What makes a request the same request: a scope and a name inside it."""

    scope: int
    name: str

    @classmethod
    def of_key(cls, idempotency_key: str) -> "Identity":
        """Name a request by its Idempotency-Key."""
        return cls(DEFAULT_SCOPE, f"key:{idempotency_key}")

    @classmethod
    def of_part(cls, idempotency_key: str, number: int) -> "Identity":
        """Name one part of a request by its Idempotency-Key."""
        return cls(DEFAULT_SCOPE, f"part:{number}:{idempotency_key}")

    @classmethod
    def of_id(cls, transaction_id: UUID) -> "Identity":
        """Name a request by the transaction id its client chose."""
        return cls(DEFAULT_SCOPE, f"id:{transaction_id}")

    @classmethod
    def of_reversal(cls, transaction_id: UUID) -> "Identity":
        """Name the one reversal a transaction may have."""
        return cls(DEFAULT_SCOPE, f"reversal:{transaction_id}")

    @classmethod
    def of_opening(cls, account_id: str) -> "Identity":
        """Name the one opening balance an account may have."""
        return cls(DEFAULT_SCOPE, f"opening:{account_id}")

    @property
    def text(self) -> str:
        """One string for maps and for Redis; scopes are numbers, so it is unambiguous."""
        return f"{self.scope}:{self.name}"


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction expects of its account when it is decided; None for anything.

    `version` counts the entries the account has had. What is at least available is not yet in
    minor units, and may be zero or below.
    """

    version: int | None = None
    available_at_least: DecimalText | None = None
    is_negative: bool = False

    def available_minor(self, exponent: int) -> int | None:
        """What must at least be available, in minor units; raises `AmountTooPrecise` or
        `AmountTooLarge`.
        """
        if self.available_at_least is None:
            return None
        pointer = "/expect/available_at_least"
        wanted, largest = self.available_at_least, limits.BALANCE_MINOR_MAX
        minor = minor_units(wanted, exponent, pointer, largest)
        return -minor if self.is_negative else minor


class TransactionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction whose form was checked; its amount is not yet in minor units.

    `effective_at` is aware; `reverses` is the transaction that this one takes back.
    """

    account_id: str
    amount: DecimalText
    direction: Direction
    transaction_id: UUID | None = None
    idempotency_key: str | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    expect: Expectation | None = None
    effective_at: datetime | None = None
    reverses: UUID | None = None

    @property
    def identities(self) -> tuple[Identity, ...]:
        """The identities this request claims, its key first; empty for an anonymous one."""
        key, transaction_id = self.idempotency_key, self.transaction_id
        named = () if key is None else (Identity.of_key(key),)
        if transaction_id is not None:
            named = (*named, Identity.of_id(transaction_id))
        return named if self.reverses is None else (*named, Identity.of_reversal(self.reverses))


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted movement on one account; `accepted_at` is aware and UTC.

    One that is half of a transfer has its id, and the other account's. `effective_at` is when it
    counts by effective time, where that is before it was accepted; `reverses` is the transaction
    that it takes back.
    """

    transaction_id: UUID
    account: Account
    change_minor: int
    status: EntryStatus
    mode: Mode
    accepted_at: datetime
    updated_at: datetime
    reference: str | None = None
    metadata: dict[str, str] | None = None
    attempt_id: int = 0
    transfer_id: UUID | None = None
    other_account_id: str | None = None
    effective_at: datetime | None = None
    reverses: UUID | None = None
    hold_id: UUID | None = None

    @property
    def direction(self) -> Direction:
        """Credit raises the balance, debit lowers it."""
        return Direction.CREDIT if self.change_minor > 0 else Direction.DEBIT

    @property
    def amount_text(self) -> str:
        """The amount in major units."""
        return decimal_text(abs(self.change_minor), self.account.exponent)


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a part of a request under its one key.

    `refusals` have by position the code and what was available in minor units; every other item
    was accepted.
    """

    batch_seq: int
    accepted_at: datetime
    mode: Mode
    attempt_id: int
    digest: bytes
    refusals: dict[int, tuple[str, str | None]]


class Acceptance(msgspec.Struct, frozen=True):
    """The answer to an accepted request; `replayed` when an earlier sending was accepted."""

    transaction: Transaction
    replayed: bool


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """An account's balance from one snapshot of PostgreSQL; amounts in minor units."""

    account: Account
    settled_minor: int
    pending_debit_minor: int
    pending_credit_minor: int
    credit_limit_minor: int
    held_minor: int
    version: int
    last_updated_at: datetime

    @property
    def available_minor(self) -> int:
        """What may still be debited."""
        pending = self.pending_credit_minor - self.pending_debit_minor
        return self.settled_minor + pending + self.credit_limit_minor


class PendingPage(msgspec.Struct, frozen=True, kw_only=True):
    """Exact count and sums of an account's pending movements, and one page of them."""

    account: Account
    count: int
    debit_minor: int
    credit_minor: int
    items: tuple[Transaction, ...]
    next_cursor: str | None


class ComponentHealth(msgspec.Struct, frozen=True):
    """One part's state: whether it works, in words, and how long it took to answer."""

    ok: bool
    detail: str
    latency_ms: float = 0.0


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """What operators have set, and the last thing one did."""

    forced_mode: str | None
    closed: bool
    last_action: str | None = None
    last_actor: str | None = None
    last_action_at: datetime | None = None


class Consistency(msgspec.Struct, frozen=True, kw_only=True):
    """The latest finished consistency check."""

    ok: bool
    complete: bool
    mismatch_count: int
    duration_ms: float
    verified_at: datetime
    compared: dict[str, int]


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be; figures are in major units of the account's currency."""

    kind: str
    store: str
    account_id: str | None
    expected: str
    found: str
    place: str = ""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What one verification compared and found; `complete` when it left nothing out."""

    complete: bool
    mode: Mode
    epoch: int
    compared: dict[str, int]
    mismatches: tuple[Mismatch, ...]
    duration_ms: float
    verified_at: datetime

    @property
    def is_clean(self) -> bool:
        """Tell whether everything that was compared agrees."""
        return not self.mismatches

    @property
    def is_redis_divergent(self) -> bool:
        """Tell whether Redis must begin anew: it differs where PostgreSQL is without fault."""
        at_fault = {each.account_id for each in self.mismatches if each.store == "postgres"}
        return any(
            each.store == "redis" and each.account_id not in at_fault for each in self.mismatches
        )


class HealthFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the database knows of the ledger's health."""

    settler_lag_ms: int
    is_standby: bool = False
    controls: Controls | None = None
    consistency: Consistency | None = None


class LedgerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this instance; `ready` tells whether it can decide a transaction now."""

    components: dict[str, ComponentHealth]
    mode: str
    epoch: int
    settler_lag_ms: int
    queue_items: int
    ready: bool
    features: dict[str, bool]
    controls: Controls | None
    consistency: Consistency | None

    @property
    def status(self) -> str:
        """Whether this instance works, in one word."""
        if not self.ready:
            return "unavailable"
        is_consistent = self.consistency is None or self.consistency.ok
        is_whole = all(part.ok for part in self.components.values())
        return "healthy" if is_whole and is_consistent and self.mode == Mode.REDIS else "degraded"


def check_account_id(account_id: str, pointer: str = "/account_id") -> None:
    """Refuse an account id no account can have."""
    if not account_id:
        raise errors.AccountIdEmpty(pointer=pointer)
    if len(account_id) > limits.ACCOUNT_ID_LENGTH_MAX:
        raise errors.AccountIdTooLong(pointer=pointer)
    if not _ACCOUNT_ID.fullmatch(account_id):
        raise errors.AccountIdMalformed(pointer=pointer)


@lru_cache(maxsize=16_384)
def check_customer_account_id(account_id: str, pointer: str = "/account_id") -> None:
    """Refuse an account id that no client may move money on or open."""
    check_account_id(account_id, pointer)
    if account_id.startswith((EXTERNAL_PREFIX, HOLDING_PREFIX)):
        raise errors.AccountReserved(pointer=pointer)


def external_account_id(currency: str) -> str:
    """Name the account that is the other side of money entering or leaving in a currency."""
    return f"{EXTERNAL_PREFIX}{currency}"
