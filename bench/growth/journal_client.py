"""One connection that journals batches as fast as it can; a process of its own.

`python -m bench.growth.journal_client <url> <batch> <seconds> <keys> <accounts> <number>` prints
how many batches it journaled, and the microseconds that took.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable

import asyncpg

_CALL = "SELECT outcome FROM journal_batch_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_BATCHES = 20
_WORD = "growth"
Names = Callable[[int], list[str]]


def names_of(kind: str, number: int) -> Names:
    """What names keys: `time` for names that ascend, `random`, or `one` for one a batch."""
    chance = random.Random()
    if kind == "random":
        return lambda count: [_uuid(chance.getrandbits(128)) for _ in range(count)]

    def ascending(count: int) -> list[str]:
        first = time.time_ns() // 1_000
        return [_uuid((first << 76) | (item << 60) | number) for item in range(count)]

    return ascending


def _uuid(value: int) -> str:
    text = f"{value % 2**128:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


async def journal(
    url: str, batch: int, seconds: float, keys: str, accounts: int, number: int
) -> tuple[int, int]:
    """Journal until the time is over; returns batches and microseconds."""
    connection = await asyncpg.connect(url)
    call = await connection.prepare(_CALL)
    epoch = await connection.fetchval("SELECT epoch FROM ledger_shards")
    chance, names = random.Random(number), names_of(keys, number)
    first = await connection.fetchval(
        "SELECT min(account_no) FROM accounts WHERE kind = 'customer'"
    )
    prepared = [[first + chance.randrange(accounts) for _ in range(batch)] for _ in range(_BATCHES)]
    count = 1 if keys == "one" else batch
    items, scopes, changes = list(range(count)), [0] * count, [-1] * batch
    done, attempt = 0, time.time_ns() // 1_000 * 1_000 + number
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        outcome = await call.fetchval(
            0, epoch, _WORD, attempt + done * 10, prepared[done % _BATCHES], changes,
            None, None, None, items, scopes, names(count),
        )  # fmt: skip
        if outcome != "journaled":
            raise SystemExit(f"a batch was {outcome}")
        done += 1
    took = time.perf_counter() - started
    await connection.close()
    return done, round(took * 1e6)


if __name__ == "__main__":
    url, batch, seconds, keys, accounts, number = sys.argv[1:]
    print(*asyncio.run(journal(url, int(batch), float(seconds), keys, int(accounts), int(number))))
