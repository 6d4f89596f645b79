"""The words that Lua, SQL and Python share; a word is also the error `code` where it refuses."""

from enum import StrEnum


class Direction(StrEnum):
    """Which way a transaction moves its account's balance (the public field `type`)."""

    DEBIT = "debit"
    CREDIT = "credit"


class EntryStatus(StrEnum):
    """Where an accepted movement stands on its way into the settled balance."""

    PENDING = "PENDING"
    SETTLED = "SETTLED"


class Mode(StrEnum):
    """Who decides."""

    REDIS = "redis"
    POSTGRES = "postgres"


class Admitted(StrEnum):
    """What admission in Redis says of one item."""

    ADMITTED = "admitted"
    IN_FLIGHT = "in_flight"
    INSUFFICIENT_AVAILABLE = "insufficient_available"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    UNLOADED = "unloaded"
    VANISHED = "vanished"


class Script(StrEnum):
    """What a script says of the whole call."""

    DONE = "done"
    FENCED = "fenced"
    STALE = "stale"


class Loaded(StrEnum):
    """What loading says of one account."""

    LOADED = "loaded"
    PRESENT = "present"
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
