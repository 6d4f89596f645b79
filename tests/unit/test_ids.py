"""Ids carry their place in the journal, and attempt numbers never repeat."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import limits
from app.kit.ids import (
    AttemptNumbers,
    EntryPosition,
    assigned_position,
    assigned_transaction_id,
    is_assigned_form,
)

positions = st.builds(
    EntryPosition, st.integers(1, limits.BATCH_SEQ_MAX), st.integers(0, limits.ITEM_NUMBER_MAX)
)


@given(st.integers(0, 2**48 - 1), positions)
def test_an_assigned_id_tells_its_position(accepted_ms: int, position: EntryPosition) -> None:
    transaction_id = assigned_transaction_id(accepted_ms, position)
    assert assigned_position(transaction_id) == position
    assert (transaction_id.version, is_assigned_form(transaction_id)) == (8, True)


@given(st.integers(0, 2**48 - 2), positions, positions)
def test_assigned_ids_sort_by_time(
    accepted_ms: int, one: EntryPosition, two: EntryPosition
) -> None:
    earlier = assigned_transaction_id(accepted_ms, one)
    assert earlier < assigned_transaction_id(accepted_ms + 1, two)


@given(st.integers(0, 2**48 - 1), positions, positions)
def test_two_positions_never_share_an_id(
    accepted_ms: int, one: EntryPosition, two: EntryPosition
) -> None:
    same_id = assigned_transaction_id(accepted_ms, one) == assigned_transaction_id(accepted_ms, two)
    assert same_id == (one == two)


@pytest.mark.parametrize("transaction_id", [uuid4(), UUID(int=0), UUID(int=2**128 - 1)])
def test_an_id_of_another_form_has_no_position(transaction_id: UUID) -> None:
    assert assigned_position(transaction_id) is None


def test_attempt_numbers_rise_and_belong_to_one_process() -> None:
    numbers = AttemptNumbers(7)
    drawn = [numbers.draw() for _ in range(5)]
    assert drawn == sorted(set(drawn))
    assert {number // limits.ATTEMPTS_PER_PROCESS_MAX for number in drawn} == {7}


def test_the_last_process_number_still_fits_int64() -> None:
    assert AttemptNumbers(limits.PROCESS_NUMBER_MAX).draw() <= limits.INT64_MAX


@pytest.mark.parametrize("process_number", [0, -1, limits.PROCESS_NUMBER_MAX + 1])
def test_a_process_number_out_of_range_is_refused(process_number: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        AttemptNumbers(process_number)


def test_a_process_stops_when_its_numbers_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ATTEMPTS_PER_PROCESS_MAX", 4)
    numbers = AttemptNumbers(1)
    assert [numbers.draw() for _ in range(3)] == [5, 6, 7]
    with pytest.raises(OverflowError):
        numbers.draw()
