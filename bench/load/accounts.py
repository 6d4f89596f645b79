"""The accounts of the load tests: opened, topped up, shown and reset by ordinary requests.

On a running service only the specification's own accounts are used; nothing is ever deleted.
"""

import time
from collections.abc import Sequence

from app.kit.money import decimal_text
from bench.load.ledger import Ledger
from bench.load.service import Service, ServiceError
from tests.drills.load import EXPONENT
from tests.drills.observed import Balance
from tests.drills.report import table

SINGLE = "ACC001"
MULTI = tuple(f"MULTI{number:03}" for number in range(1, 6))
OPENING_MINOR = 100_000_000
_PRIVATE_OPENING_MINOR = 10**14
_PREFIX = "LOAD"


def account_names(count: int, service: Service) -> tuple[str, ...]:
    """The accounts of a load: the specification's while they suffice, then numbered ones.

    Numbered ones are for private services only: `ServiceError` on a running one.
    """
    if count == 1:
        return (SINGLE,)
    if count <= len(MULTI):
        return MULTI[:count]
    if not service.is_private:
        raise ServiceError(f"more than {len(MULTI)} accounts need a private service (--private)")
    return tuple(f"{_PREFIX}{number:07}" for number in range(count))


async def provide(
    ledger: Ledger, account_ids: Sequence[str], *, private: bool, least_minor: int
) -> dict[str, Balance]:
    """Open the accounts that are missing and credit those that have too little for a load."""
    opening_minor = _PRIVATE_OPENING_MINOR if private else max(OPENING_MINOR, least_minor)
    present = await ledger.balances(account_ids)
    missing = [name for name in account_ids if name not in present]
    await ledger.for_each(missing, lambda name: ledger.open(name, opening_minor))
    for name, balance in present.items():
        if balance.available_minor < least_minor:
            change_minor = max(least_minor, OPENING_MINOR) - balance.available_minor
            await ledger.move(name, change_minor, _key("provide", name))
    return await ledger.balances(account_ids)


async def reset(ledger: Ledger, account_ids: Sequence[str]) -> dict[str, Balance]:
    """Bring accounts back to what they are set up with, each by one ordinary transaction.

    Accounts that do not exist are left so.
    """
    for name, balance in (await ledger.balances(account_ids)).items():
        change_minor = OPENING_MINOR - balance.available_minor
        if change_minor:
            await ledger.move(name, change_minor, _key("reset", name))
    return await ledger.balances(account_ids)


async def status_lines(ledger: Ledger, account_ids: Sequence[str]) -> list[str]:
    """The accounts as a table."""
    balances = await ledger.balances(account_ids)
    names = ("account", "settled", "pending debit", "pending credit", "available", "pending")
    rows: list[tuple[str, ...]] = []
    for name in account_ids:
        if name not in balances:
            rows.append((name, "not there", "", "", "", ""))
            continue
        texts = [decimal_text(minor, EXPONENT) for minor in balances[name]]
        rows.append((name, *texts, str(await ledger.pending_count(name))))
    return table(names, rows)


def _key(what: str, name: str) -> str:
    return f"load-{what}-{name}-{time.time_ns():x}"
