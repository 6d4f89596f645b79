"""Opaque cursors: a few whole numbers that say where a list goes on."""

import base64
import binascii
import re

from app import limits
from app.errors import InvalidCursor
from app.kit.ids import EntryPosition

_LENGTH_MAX = 120
_NUMBERS = re.compile(r"-?[0-9]{1,19}(\.-?[0-9]{1,19})*", re.ASCII)


def encode_cursor(*numbers: int) -> str:
    """Write numbers as a cursor."""
    text = ".".join(str(number) for number in numbers)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, count: int) -> tuple[int, ...]:
    """Read `count` numbers back; raises `InvalidCursor`."""
    if len(cursor) > _LENGTH_MAX or not cursor.isascii():
        raise InvalidCursor(pointer="/cursor")
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError) as exc:
        raise InvalidCursor(pointer="/cursor") from exc
    numbers = tuple(int(part) for part in text.split(".")) if _NUMBERS.fullmatch(text) else ()
    if len(numbers) != count or encode_cursor(*numbers) != cursor.rstrip("="):
        raise InvalidCursor(pointer="/cursor")
    return numbers


def decode_number(cursor: str) -> int:
    """Read back one number above zero, as a row's may be; raises `InvalidCursor`."""
    (number,) = decode_cursor(cursor, 1)
    if not 0 < number <= limits.INT64_MAX:
        raise InvalidCursor(pointer="/cursor")
    return number


def decode_position(cursor: str) -> EntryPosition:
    """Read a cursor as a place in the journal; raises `InvalidCursor`."""
    position = EntryPosition(*decode_cursor(cursor, 2))
    in_range = (
        0 <= position.batch_seq <= limits.BATCH_SEQ_MAX
        and 0 <= position.item_no <= limits.ITEM_NUMBER_MAX
    )
    if not in_range:
        raise InvalidCursor(pointer="/cursor")
    return position
