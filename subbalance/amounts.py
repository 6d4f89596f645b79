"""Amounts are exact: decimals or their digits in, decimals out, never a float."""

from decimal import Decimal
from typing import TypeAlias

Amount: TypeAlias = Decimal | str | int


def amount_text(amount: Amount) -> str:
    """Write an amount as the service reads it; a float is a `TypeError`, it is not exact.

    Only the form is checked here; the sign, the decimals and the size are the service's to refuse.
    """
    if isinstance(amount, str):
        return amount
    if isinstance(amount, bool) or not isinstance(amount, int | Decimal):
        raise TypeError(
            f"an amount is a Decimal, a str or an int, not a {type(amount).__name__}: {amount!r}"
        )
    if isinstance(amount, int):
        return str(amount)
    if not amount.is_finite():
        raise ValueError(f"{amount} is not an amount")
    return format(amount, "f")
