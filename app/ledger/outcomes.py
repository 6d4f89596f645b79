"""What a batch asks of the journal beside its items, and what PostgreSQL says became of it or of a
change of an account.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.ledger.codes import Changed, Decided, Extent, Journaled


class Claim(NamedTuple):
    """What a batch claims as a whole: whether all stand or fall together, and for a part of a
    request with one key for all of it, that key, the part's name under it, a digest of the whole
    request, and what was refused.
    """

    extent: Extent = Extent.EACH
    scope: int | None = None
    key: str | None = None
    name: str | None = None
    digest: bytes | None = None
    refusals: str | None = None


NO_CLAIM = Claim()


class JournalOutcome(NamedTuple):
    """What became of an attempt; positions count its items from 0."""

    word: Journaled
    batch_seq: int
    accepted_at: datetime | None
    duplicates: frozenset[int]


class DecidedOutcome(NamedTuple):
    """What became of an attempt that PostgreSQL decided, with a word and a figure for each item."""

    word: Journaled
    batch_seq: int
    accepted_at: datetime | None
    words: Sequence[Decided]
    availables: Sequence[int | None]


class ChangeOutcome(NamedTuple):
    """What became of an attempt to change an account; the figures of the decision are balance,
    credit limit left out, and the limit as it was before.
    """

    word: Changed
    balance_minor: int
    limit_minor: int
