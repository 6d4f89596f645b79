"""The specification's manual test: a credit, ten debits, what is pending, what is settled."""

import asyncio
import time
from collections.abc import Callable

from app.kit.money import decimal_text
from bench.load.accounts import SINGLE
from bench.load.integrity import money_minor
from bench.load.ledger import Ledger
from tests.drills.integrity import Check, judged
from tests.drills.load import EXPONENT
from tests.drills.observed import Balance

_CREDIT_MINOR, _DEBIT_MINOR, _DEBITS = 10_000_000, 100_000, 10
_SETTLEMENT_S, _SETTLED_TIMEOUT_S = 5.0, 30.0


async def hold_manual_test(ledger: Ledger, say: Callable[[str], None]) -> list[Check]:
    """Credit 100000, read, debit ten times 1000, see what is pending, wait 5 s, read again."""
    run = f"load-manual-{time.time_ns():x}"
    before = await _balance(ledger)
    await ledger.move(SINGLE, _CREDIT_MINOR, f"{run}-credit")
    credited = await _balance(ledger)
    for number in range(_DEBITS):
        await ledger.move(SINGLE, -_DEBIT_MINOR, f"{run}-debit-{number}")
    debited, pending = await _balance(ledger), await ledger.pending_count(SINGLE)
    say(f"{SINGLE}: available {_text(debited.available_minor)}, {pending} pending, waiting ...")
    await asyncio.sleep(_SETTLEMENT_S)
    settled = (await ledger.settled_balances([SINGLE], _SETTLED_TIMEOUT_S))[SINGLE]
    end_minor = money_minor(before) + _CREDIT_MINOR - _DEBITS * _DEBIT_MINOR
    return [
        _is("credit 100000, balance", money_minor(before) + _CREDIT_MINOR, money_minor(credited)),
        _is("10 debits of 1000, balance", end_minor, money_minor(debited)),
        _is("available at once", before.available_minor + end_minor - money_minor(before),
            debited.available_minor),
        judged(
            "pending",
            [f"{pending} pending"] if pending > _DEBITS + 1 and not _had_pending(before) else [],
            f"{pending} pending; a settlement may have come between",
        ),
        _is("wait 5 s, settled balance", end_minor, settled.settled_minor),
        _is("nothing is pending any more", 0,
            settled.pending_debit_minor + settled.pending_credit_minor),
    ]  # fmt: skip


async def _balance(ledger: Ledger) -> Balance:
    return (await ledger.balances([SINGLE]))[SINGLE]


def _had_pending(balance: Balance) -> bool:
    return bool(balance.pending_debit_minor or balance.pending_credit_minor)


def _is(name: str, expected_minor: int, found_minor: int) -> Check:
    wrong = [f"expected {_text(expected_minor)}"] if expected_minor != found_minor else []
    return judged(name, [*wrong, _text(found_minor)] if wrong else [], _text(found_minor))


def _text(amount_minor: int) -> str:
    return decimal_text(amount_minor, EXPONENT)
