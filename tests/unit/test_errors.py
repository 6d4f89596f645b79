"""The error tree is closed, its code words are unique and each class has a message."""

import re
from collections.abc import Iterator

import pytest

from app import errors
from app.events import errors as events
from app.ledger.codes import Refused

FAMILIES = (
    errors.Rejected,
    errors.Unavailable,
    errors.OutcomeUnknown,
    errors.InvariantViolation,
)
MODULES = {"app.errors", events.__name__}
START_UP = {errors.UnusableRedis, errors.UnusableDatabase, errors.InvalidSettings}


def descendants(parent: type[errors.LedgerError]) -> Iterator[type[errors.LedgerError]]:
    for child in parent.__subclasses__():
        yield child
        yield from descendants(child)


ALL = [each for each in descendants(errors.LedgerError) if each.__module__ in MODULES]


def test_code_words_are_unique() -> None:
    codes = [each.code for each in ALL]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_a_code_is_a_word_and_the_docstring_a_sentence(error: type[errors.LedgerError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert error().detail == (error.__doc__ or "").splitlines()[0]
    assert error().detail.endswith(".")


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_every_error_belongs_to_one_family_or_to_the_start(error: type[errors.LedgerError]) -> None:
    families = [family for family in FAMILIES if issubclass(error, family)]
    assert len(families) == (0 if error in START_UP else 1)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_the_status_fits_the_family(error: type[errors.LedgerError]) -> None:
    if issubclass(error, errors.Rejected):
        assert 400 <= error.status < 500
    elif issubclass(error, errors.Unavailable | errors.OutcomeUnknown):
        assert (error.status, error.retryable) == (503, True)
        assert error.retry_after_s > 0
    else:
        assert (error.status, error.retryable) == (500, False)


@pytest.mark.parametrize("word", ["insufficient_available", "balance_limit_exceeded"])
def test_a_refusal_of_the_script_is_the_code_of_its_error(word: str) -> None:
    assert Refused(word).value in {error.code for error in ALL}


def test_members_and_pointer_are_kept() -> None:
    error = errors.InsufficientAvailable(pointer="/amount", available="1.00")
    assert (error.pointer, error.members) == ("/amount", {"available": "1.00"})


def test_require_raises_only_when_the_invariant_fails() -> None:
    errors.require(True, "unused")
    with pytest.raises(errors.InvariantViolation, match="sums differ"):
        errors.require(False, "sums differ")
