"""Cursors come back as they were given out, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidCursor
from app.kit.cursor import decode_cursor, encode_cursor


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=4))
def test_a_cursor_survives_the_way_out_and_back(numbers: list[int]) -> None:
    assert decode_cursor(encode_cursor(*numbers), len(numbers)) == tuple(numbers)


@pytest.mark.parametrize(
    "cursor",
    ["", "!", "AAAA", "MQ", "MS4y.", "MS4y MS4y", "\u0661", "A" * 121, encode_cursor(1, 2, 3)],
)
def test_what_was_not_given_out_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(cursor, 2)


@given(st.text(max_size=20))
def test_any_text_is_a_cursor_or_refused(cursor: str) -> None:
    try:
        numbers = decode_cursor(cursor, 2)
    except InvalidCursor:
        return
    assert encode_cursor(*numbers) == cursor.rstrip("=")
