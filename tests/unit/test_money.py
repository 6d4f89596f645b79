"""Amounts as rows: what is exact, what is refused and with which word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors, limits
from app.kit.money import DecimalText, currency_exponent, decimal_text, minor_units, parse_amount

PARSED = [
    ("1", DecimalText("1", "")),
    ("10000", DecimalText("10000", "")),
    ("0.05", DecimalText("0", "05")),
    ("0.10", DecimalText("0", "10")),
    ("90071992547409.93", DecimalText("90071992547409", "93")),
    (1, DecimalText("1", "")),
    (2**53 + 1, DecimalText("9007199254740993", "")),
]
REFUSED = [
    ("", errors.AmountNotANumber),
    (" 1", errors.AmountNotANumber),
    ("1 ", errors.AmountNotANumber),
    ("+1", errors.AmountNotANumber),
    (".5", errors.AmountNotANumber),
    ("5.", errors.AmountNotANumber),
    ("007", errors.AmountNotANumber),
    ("1,5", errors.AmountNotANumber),
    ("1_000", errors.AmountNotANumber),
    ("0x10", errors.AmountNotANumber),
    ("NaN", errors.AmountNotANumber),
    ("Infinity", errors.AmountNotANumber),
    ("\u0663", errors.AmountNotANumber),
    ("1\n", errors.AmountNotANumber),
    ("1e5", errors.AmountExponent),
    ("1E-5", errors.AmountExponent),
    ("-1e5", errors.AmountExponent),
    ("0", errors.AmountZero),
    ("0.00", errors.AmountZero),
    (0, errors.AmountZero),
    ("-1", errors.AmountNegative),
    ("-0.01", errors.AmountNegative),
    (-1, errors.AmountNegative),
    ("9" * 65, errors.AmountTooLarge),
    (10**70, errors.AmountTooLarge),
]
MINOR = [
    ("1", 0, 1),
    ("1", 2, 100),
    ("0.01", 2, 1),
    ("0.001", 3, 1),
    ("1.5", 2, 150),
    ("90071992547409.93", 2, 2**53 + 1),
    ("9999999999999999.99", 2, limits.AMOUNT_MINOR_MAX),
    ("999999999999999999", 0, limits.AMOUNT_MINOR_MAX),
]
NOT_MINOR = [
    ("0.001", 2, errors.AmountTooPrecise),
    ("1.0", 0, errors.AmountTooPrecise),
    ("1.100", 2, errors.AmountTooPrecise),
    ("10000000000000000", 2, errors.AmountTooLarge),
    ("1000000000000000000", 0, errors.AmountTooLarge),
    (str(2**63), 2, errors.AmountTooLarge),
]
TEXTS = [
    (0, 2, "0.00"),
    (1, 2, "0.01"),
    (-1, 2, "-0.01"),
    (100, 2, "1.00"),
    (5, 0, "5"),
    (-5, 0, "-5"),
    (1, 3, "0.001"),
    (2**53 + 1, 2, "90071992547409.93"),
    (limits.INT64_MAX, 2, "92233720368547758.07"),
    (-limits.INT64_MAX - 1, 2, "-92233720368547758.08"),
]


@pytest.mark.parametrize(("amount", "parsed"), PARSED)
def test_a_plain_decimal_is_taken_digit_by_digit(amount: str | int, parsed: DecimalText) -> None:
    assert parse_amount(amount) == parsed


@pytest.mark.parametrize(("amount", "refusal"), REFUSED)
def test_each_malformed_amount_has_its_own_refusal(
    amount: str | int, refusal: type[errors.Rejected]
) -> None:
    with pytest.raises(errors.Rejected) as caught:
        parse_amount(amount)
    assert type(caught.value) is refusal
    assert caught.value.pointer == "/amount"


@pytest.mark.parametrize(("amount", "exponent", "minor"), MINOR)
def test_minor_units_are_exact(amount: str, exponent: int, minor: int) -> None:
    assert minor_units(parse_amount(amount), exponent) == minor


@pytest.mark.parametrize(("amount", "exponent", "refusal"), NOT_MINOR)
def test_an_amount_beyond_its_currency_is_refused(
    amount: str, exponent: int, refusal: type[errors.Rejected]
) -> None:
    with pytest.raises(refusal) as caught:
        minor_units(parse_amount(amount), exponent)
    assert caught.value.pointer == "/amount"


@pytest.mark.parametrize(("minor", "exponent", "text"), TEXTS)
def test_decimal_text_has_all_decimals_of_the_currency(
    minor: int, exponent: int, text: str
) -> None:
    assert decimal_text(minor, exponent) == text


@given(st.integers(1, limits.AMOUNT_MINOR_MAX), st.integers(0, limits.EXPONENT_MAX))
def test_every_amount_survives_the_way_out_and_back(minor: int, exponent: int) -> None:
    assert minor_units(parse_amount(decimal_text(minor, exponent)), exponent) == minor


@given(st.text(alphabet="0123456789.eE+- \u0661\uff11", max_size=30))
def test_nothing_but_a_plain_decimal_is_taken(text: str) -> None:
    try:
        parsed = parse_amount(text)
    except errors.Rejected:
        return
    digits = parsed.whole + parsed.fraction
    assert text in (parsed.whole, f"{parsed.whole}.{parsed.fraction}")
    assert digits.isascii()
    assert digits.isdigit()


@pytest.mark.parametrize(("code", "exponent"), [("USD", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_the_exponent_is_the_one_of_iso_4217(code: str, exponent: int) -> None:
    assert currency_exponent(code) == exponent


@pytest.mark.parametrize("code", ["", "usd", "US", "XAU", "XTS", "ZZZ", "USD ", "\u0000"])
def test_what_is_no_currency_with_minor_units_is_refused(code: str) -> None:
    with pytest.raises(errors.UnknownCurrency):
        currency_exponent(code)
