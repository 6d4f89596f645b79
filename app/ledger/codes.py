"""The words that Lua, SQL and Python share; a word is also the error `code` where it refuses."""

from enum import StrEnum


class Extent(StrEnum):
    """Whether an item that is refused stops the others it came with."""

    EACH = "each"
    ALL = "all"


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


class Refused(StrEnum):
    """Why admission in Redis refuses an item."""

    INSUFFICIENT_AVAILABLE = "insufficient_available"
    CREDIT_IN_FLIGHT = "credit_in_flight"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"


class Decided(StrEnum):
    """What the decision in PostgreSQL says of one item."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    INSUFFICIENT_AVAILABLE = "insufficient_available"
    CREDIT_IN_FLIGHT = "credit_in_flight"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    UNKNOWN_ACCOUNT = "unknown_account"
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
