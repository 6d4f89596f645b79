"""The words that Lua, SQL and Python share; a word is also the error `code` where it refuses."""

from enum import StrEnum


class Extent(StrEnum):
    """Which others an item that is refused stops: none, all it came with, or those of its group."""

    EACH = "each"
    ALL = "all"
    GROUPS = "groups"


class Direction(StrEnum):
    """Which way a transaction moves its account's balance (the public field `type`)."""

    DEBIT = "debit"
    CREDIT = "credit"


class EntryStatus(StrEnum):
    """Where an accepted movement stands on its way into the settled balance."""

    PENDING = "PENDING"
    SETTLED = "SETTLED"


class Mode(StrEnum):
    """Who decides; closed means nobody, because an operator said so."""

    REDIS = "redis"
    POSTGRES = "postgres"
    CLOSED = "closed"


class Frozen(StrEnum):
    """Which transactions an account takes no more (the public field `frozen`)."""

    NONE = "none"
    DEBIT = "debit"
    CREDIT = "credit"
    ALL = "all"


class HoldKind(StrEnum):
    """What is done to a hold."""

    PLACE = "place"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRE = "expire"


class HoldStatus(StrEnum):
    """Whether a hold is open, or what ended it."""

    HELD = "HELD"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class Refused(StrEnum):
    """Why admission in Redis refuses an item."""

    INSUFFICIENT_AVAILABLE = "insufficient_available"
    CREDIT_IN_FLIGHT = "credit_in_flight"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_CHANGING = "account_changing"
    VERSION_MISMATCH = "version_mismatch"
    AVAILABLE_BELOW_EXPECTED = "available_below_expected"
    GROUP_REFUSED = "group_refused"


class Decided(StrEnum):
    """What the decision in PostgreSQL says of one item."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    INSUFFICIENT_AVAILABLE = "insufficient_available"
    CREDIT_IN_FLIGHT = "credit_in_flight"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_CLOSED = "account_closed"
    VERSION_MISMATCH = "version_mismatch"
    AVAILABLE_BELOW_EXPECTED = "available_below_expected"
    UNKNOWN_ACCOUNT = "unknown_account"
    GROUP_REFUSED = "group_refused"
    UNDECIDED = "undecided"


class Script(StrEnum):
    """What a script says of the whole call."""

    DONE = "done"
    FENCED = "fenced"
    STALE = "stale"
    UNLOADED = "unloaded"
    VANISHED = "vanished"


class Loaded(StrEnum):
    """What loading says of one account."""

    LOADED = "loaded"
    PRESENT = "present"
    VANISHED = "vanished"


class Stopped(StrEnum):
    """What stopping an account for a change says beside the words of every script."""

    CHANGING = "changing"


class Inspected(StrEnum):
    """What an inspection says of one account."""

    PRESENT = "present"
    UNLOADED = "unloaded"
    VANISHED = "vanished"


class Refreshed(StrEnum):
    """What a refresh after settlement says of one account."""

    REFRESHED = "refreshed"
    CURRENT = "current"
    BEHIND = "behind"
    UNLOADED = "unloaded"


class Journaled(StrEnum):
    """What the journal says of one attempt."""

    JOURNALED = "journaled"
    FENCED = "fenced"
    VOID = "void"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class Changed(StrEnum):
    """What PostgreSQL says of one attempt to change an account."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    FENCED = "fenced"
    VOID = "void"
    DIFFERS = "differs"
    BUSY = "busy"
    ACCOUNT_NOT_FOUND = "account_not_found"
    PRECONDITION_FAILED = "precondition_failed"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_NOT_EMPTY = "account_not_empty"
    LIMIT_IN_USE = "limit_in_use"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
