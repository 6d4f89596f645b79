"""Reading the query parameters of history, each at most once, with one error for each way to be
wrong.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.openapi.spec import Parameter as DescribedParameter

from app import errors, limits
from app.kit.instants import parse_instant
from app.kit.money import parse_amount
from app.ledger.codes import Direction, EntryStatus
from app.ledger.history import Basis

_Word = TypeVar("_Word", bound=StrEnum)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


class Asked:
    """The parameters of one request; what is not taken before `end` was not known."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        """Take parameters by name; raises `InvalidParameter` for one that is given twice."""
        self._asked: dict[str, str] = {}
        for name, value in items:
            if name in self._asked:
                raise wrong(name, "It may be given once.")
            self._asked[name] = value

    def __contains__(self, name: str) -> bool:
        """Tell whether a parameter is left."""
        return name in self._asked

    def __bool__(self) -> bool:
        """Tell whether any parameter is left."""
        return bool(self._asked)

    def text(self, name: str) -> str | None:
        """Take a parameter as it is."""
        return self._asked.pop(name, None)

    def instant(self, name: str) -> datetime | None:
        """Take an instant."""
        text = self.text(name)
        return None if text is None else parse_instant(text, f"/{name}")

    def word(self, name: str, kind: type[_Word]) -> _Word | None:
        """Take one of some words."""
        text = self.text(name)
        if text is not None and text not in tuple(kind):
            raise wrong(name, f"It must be one of {', '.join(kind)}.")
        return None if text is None else kind(text)

    def amount(self, name: str) -> Decimal | None:
        """Take an amount in major units."""
        text = self.text(name)
        if text is None:
            return None
        try:
            amount = parse_amount(text)
        except errors.Rejected as error:
            error.pointer = f"/{name}"
            raise
        return Decimal(f"{amount.whole}.{amount.fraction or 0}")

    def limit(self, default: int, most: int) -> int:
        """Take the most items of a page."""
        text = self.text("limit")
        if text is None:
            return default
        if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
            raise wrong("limit", f"It must be a number from 1 to {most}.")
        return int(text)

    def starting(self, prefix: str) -> dict[str, str]:
        """Take all parameters whose names begin so, by the rest of the name."""
        names = [name for name in self._asked if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._asked.pop(name) for name in names}

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._asked:
            raise wrong(next(iter(self._asked)), "There is no such parameter here.")


def balance_parameters(items: Iterable[tuple[str, str]]) -> tuple[datetime | None, Basis]:
    """Take `at` and `by`; a balance as it is now takes no notice of other parameters."""
    asked = Asked([(name, value) for name, value in items if name in ("at", "by")])
    at, by = asked.instant("at"), asked.word("by", Basis)
    if at is None and by is not None:
        raise wrong("by", "It goes with `at`.")
    return at, by or Basis.BOOKED


def period_of(asked: Asked) -> tuple[datetime | None, datetime | None]:
    """Take `from` and `to`."""
    start, end = asked.instant("from"), asked.instant("to")
    if start is not None and end is not None and start >= end:
        raise wrong("to", "It must be later than `from`.")
    return start, end


def wrong(name: str, why: str) -> errors.InvalidParameter:
    """Refuse a parameter."""
    shown = name[: limits.METADATA_KEY_LENGTH_MAX]
    return errors.InvalidParameter(why, pointer=f"/{shown}")


def in_query(
    name: str, description: str, schema: Schema | None = None, *, required: bool = False
) -> DescribedParameter:
    """Describe a parameter for the API document."""
    return DescribedParameter(
        name=name,
        param_in="query",
        required=required,
        schema=schema or Schema(type=OpenAPIType.STRING),
        description=description,
    )


def _words(kind: type[StrEnum]) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=[each.value for each in kind])


def _count(most: int) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=most)


_INSTANT = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)
_PERIOD = (
    in_query("from", "RFC 3339: what was booked at this instant or later", _INSTANT),
    in_query("to", "RFC 3339: what was booked before this instant", _INSTANT),
)
_CURSOR = in_query("cursor", "The previous page's `next_cursor`")
BALANCE_PARAMETERS = (
    in_query("at", "RFC 3339, not in the future: the balance as of this instant", _INSTANT),
    in_query("by", "With `at`: by which time entries count; `booked` if not given", _words(Basis)),
)
STATEMENT_PARAMETERS = (
    *_PERIOD,
    _CURSOR,
    in_query(
        "limit",
        f"Most rows in a page; in JSON not above {limits.PAGE_ITEMS_MAX}",
        _count(limits.STATEMENT_ROWS_MAX),
    ),
    in_query(
        "format",
        "`json` or `csv`; else as `Accept` says",
        Schema(type=OpenAPIType.STRING, enum=["json", "csv"]),
    ),
)
SEARCH_PARAMETERS = (
    in_query("idempotency_key", "The one transaction accepted under this key; nothing beside it"),
    in_query("account_id", "Transactions of this account; this or `reference` is required"),
    in_query("reference", "Those with this reference, exactly"),
    in_query("status", "Those that are settled, or not yet", _words(EntryStatus)),
    in_query("type", "Debits or credits", _words(Direction)),
    *_PERIOD,
    in_query("amount_min", "In major units: those of this amount or more"),
    in_query("amount_max", "In major units: those of this amount or less"),
    in_query("metadata.<key>", "Those whose metadata has this value under the key; several keys"),
    _CURSOR,
    in_query("limit", "Most transactions in a page", _count(limits.PAGE_ITEMS_MAX)),
)
