"""Instants as clients write them: RFC 3339 with an offset, to the microsecond."""

import re
from datetime import UTC, datetime, timedelta

from app import limits
from app.errors import InvalidCursor, InvalidParameter

MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def parse_instant(text: str, pointer: str) -> datetime:
    """Read an instant, aware and in UTC; raises `InvalidParameter`."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise InvalidParameter(_why(text), pointer=pointer)
    date, time, fraction, offset = match.groups()
    written = f"{date}T{time}{fraction or ''}{offset.upper()}"
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidParameter("There is no such instant.", pointer=pointer) from exc


def to_microseconds(moment: datetime) -> int:
    """Count microseconds since 1970."""
    return (moment - _EPOCH) // MICROSECOND


def from_microseconds(count: int) -> datetime:
    """Undo `to_microseconds` for a cursor's number; raises `InvalidCursor`."""
    if not 0 <= count <= limits.INSTANT_MICROSECONDS_MAX:
        raise InvalidCursor(pointer="/cursor")
    return _EPOCH + timedelta(microseconds=count)


def _why(text: str) -> str:
    if " " in text:
        return "It must be an RFC 3339 instant; a '+' in a query is written %2B."
    return 'It must be an RFC 3339 instant with an offset, such as "2026-01-31T23:59:59.999999Z".'
