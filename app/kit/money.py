"""Exact amounts: decimal strings in major units outside, integers of minor units inside.

Never a float; the number of decimals is the currency's ISO 4217 exponent.
"""

import re
from functools import lru_cache

import iso4217
import msgspec

from app import errors, limits

_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)
_EXPONENT = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+", re.ASCII)
_AMOUNT_TEXT_LENGTH_MAX = 64


class DecimalText(msgspec.Struct, frozen=True):
    """A positive decimal number, still as digits: what stands before and after the point."""

    whole: str
    fraction: str


_ZERO = DecimalText("0", "")


def parse_amount(amount: str | int) -> DecimalText:
    """Check an amount's form, which needs no currency; raises one `Amount*` error each way."""
    text = amount if isinstance(amount, str) else _integer_text(amount)
    match = _DECIMAL.fullmatch(text) if len(text) <= _AMOUNT_TEXT_LENGTH_MAX else None
    if match is None:
        raise _malformed(text)
    whole, fraction = match[1], match[2] or ""
    if not (whole + fraction).strip("0"):
        raise errors.AmountZero(pointer="/amount")
    return DecimalText(whole, fraction)


def parse_signed(amount: str | int, pointer: str) -> tuple[DecimalText, bool]:
    """Read an amount that may be zero or below it: its digits, and whether it is below."""
    text = amount if isinstance(amount, str) else _integer_text(amount)
    is_negative = text.startswith("-")
    try:
        return parse_amount(text[1:] if is_negative else text), is_negative
    except errors.AmountZero:
        return _ZERO, False
    except errors.Rejected as error:
        error.pointer = pointer
        raise


def minor_units(
    amount: DecimalText,
    exponent: int,
    pointer: str = "/amount",
    largest: int = limits.AMOUNT_MINOR_MAX,
) -> int:
    """Convert to minor units of a currency; raises `AmountTooPrecise` or `AmountTooLarge`, naming
    the field at fault.
    """
    if len(amount.fraction) > exponent:
        raise errors.AmountTooPrecise(
            f"The amount has {len(amount.fraction)} decimals; its currency has {exponent}.",
            pointer=pointer,
        )
    minor = int(amount.whole + amount.fraction.ljust(exponent, "0"))
    if minor > largest:
        raise errors.AmountTooLarge(
            f"The largest amount is {decimal_text(largest, exponent)}.",
            pointer=pointer,
        )
    return minor


def decimal_text(minor: int, exponent: int) -> str:
    """Write minor units as a decimal string with exactly the currency's decimals."""
    if exponent == 0:
        return str(minor)
    sign = "-" if minor < 0 else ""
    digits = str(abs(minor)).rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


@lru_cache(maxsize=512)
def currency_exponent(code: str) -> int:
    """ISO 4217 exponent of a currency; `UnknownCurrency` for codes without minor units."""
    try:
        exponent = iso4217.Currency(code).exponent
    except ValueError as exc:
        raise errors.UnknownCurrency(f"'{code[:8]}' is not an ISO 4217 code.") from exc
    if exponent is None or exponent > limits.EXPONENT_MAX:
        raise errors.UnknownCurrency(f"{code} has no minor units to count in.")
    return int(exponent)


def _integer_text(amount: int) -> str:
    if abs(amount) >= 10**_AMOUNT_TEXT_LENGTH_MAX:
        return "-1" if amount < 0 else "9" * (_AMOUNT_TEXT_LENGTH_MAX + 1)
    return str(amount)


def _malformed(text: str) -> errors.Rejected:
    """Name what is wrong with an amount that is not a plain decimal number."""
    if text.startswith("-") and _DECIMAL.fullmatch(text[1:]):
        return errors.AmountNegative(pointer="/amount")
    if _EXPONENT.fullmatch(text):
        return errors.AmountExponent(pointer="/amount")
    if len(text) > _AMOUNT_TEXT_LENGTH_MAX and text.isascii() and text.isdigit():
        return errors.AmountTooLarge(pointer="/amount")
    return errors.AmountNotANumber(
        'The amount must be a decimal number such as "10000" or "0.05".', pointer="/amount"
    )
