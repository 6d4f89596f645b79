"""Brings accounts into Redis as their first use does, but in bulk."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.bootstrap import OperatorServices
from app.ledger.admission import Fenced
from bench.growth.stand import Stand

_PART = 500
_FENCED_MAX = 100
_PAUSE_S = 0.1


class Loaded(NamedTuple):
    """How many accounts were loaded, and what of it was spent on reading and on the script."""

    accounts: int
    reading_s: float
    script_s: float


def load_all(stand: Stand, accounts: int) -> Loaded:
    """Load the first accounts into the epoch that rules; those that are there stay as they are."""
    rows = stand.rows(
        "SELECT account_no FROM accounts WHERE kind = 'customer' ORDER BY account_no LIMIT $1",
        accounts,
    )
    return stand.wait(_load(stand.services(), [row[0] for row in rows]))


async def _load(services: OperatorServices, numbers: Sequence[int]) -> Loaded:
    reading_s = script_s = 0.0
    for start in range(0, len(numbers), _PART):
        began = time.perf_counter()
        found = await services.store.accounts_to_load(list(numbers[start : start + _PART]))
        read = time.perf_counter()
        await _load_part(services, found)
        reading_s += read - began
        script_s += time.perf_counter() - read
    return Loaded(len(numbers), reading_s, script_s)


async def _load_part(services: OperatorServices, found: Mapping[int, Mapping[str, Any]]) -> None:
    """Load under the epoch that rules; a service that just started may still be opening it."""
    admission = services.settler._admission
    for _ in range(_FENCED_MAX):
        try:
            await admission.load(await services.mode.read_ruling(), found.values())
        except Fenced:
            await asyncio.sleep(_PAUSE_S)
        else:
            return
    raise SystemExit("Redis does not decide")
