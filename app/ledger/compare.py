"""Compares accounts in Redis with PostgreSQL as of one instant, while traffic flows.

The journal's fence is held for a moment: nothing is journaled meanwhile, so each attempt in flight
is journaled or not, and every cent that differs has a name.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from app import errors
from app.infra.postgres import POSTGRES_ERRORS
from app.kit.money import decimal_text
from app.ledger.admission import CHANGING, Admission, Fenced
from app.ledger.codes import Inspected
from app.ledger.flights import Flight, FlightRecord, is_journaled, journaled_among
from app.ledger.mode import Ruling
from app.ledger.model import Mismatch
from app.ledger.store import SHARD, VERIFY_QUERIES

if TYPE_CHECKING:
    from app.infra.postgres import Connection, Pool

# How long the fence may be held: a chunk takes some milliseconds.
_HELD_S = 0.5
_TRIES_MAX = 3


class Reading(NamedTuple):
    """Both sides at one instant: accounts in Redis, what each has in flight, PostgreSQL's rows, the
    journaled items of attempts in flight, and the attempts that change accounts.
    """

    accounts: dict[str, tuple[Inspected, dict[str, str]]]
    flights: dict[str, list[Flight]]
    rows: Sequence[Any]
    journaled: dict[int, frozenset[int]]
    changes: frozenset[str]


class EpochOver(Exception):
    """The epoch ended meanwhile; there is nothing left to compare."""


class RedisComparison:
    """Compares chunks of accounts; remembers since when it has seen each reservation."""

    def __init__(
        self,
        pool: "Pool",
        admission: Admission,
        leak_age_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A reservation seen for longer than `leak_age_ms` is a mismatch; `clock` gives seconds."""
        self._pool = pool
        self._admission = admission
        self._leak_age_s = leak_age_ms / 1_000
        self._clock = clock
        self._seen: dict[Flight, float] = {}

    def begin(self) -> None:
        """Begin a pass over all accounts."""
        self._next_seen: dict[Flight, float] = {}

    def end(self) -> None:
        """End a complete pass: what was not seen in it is in flight no more."""
        self._seen = self._next_seen

    async def compare(
        self, ruling: Ruling, account_ids: Sequence[str]
    ) -> tuple[list[Mismatch], int]:
        """Compare some accounts; returns what differs and how many reservations were in flight.

        Raises `EpochOver`, `RedisUnavailable` or `PostgresUnavailable`.
        """
        reading, settled = await self._read_patiently(ruling, account_ids)
        now, flight_count = self._clock(), 0
        known = {row["account_id"] for row in reading.rows}
        found = [
            Mismatch(
                kind="redis_unknown_account",
                store="redis",
                account_id=account_id,
                expected="nothing",
                found="a hash",
            )
            for account_id in account_ids
            if account_id not in known
        ]
        for row in reading.rows:
            word, fields = reading.accounts[row["account_id"]]
            flights = reading.flights.get(row["account_id"], [])
            flight_count += len(flights)
            if word is Inspected.VANISHED:
                found.append(_mismatch("redis_vanished", row, "a hash", "nothing"))
            elif word is Inspected.PRESENT and not _is_changing(fields, reading.changes):
                found += _differences(row, fields, flights, reading.journaled, settled)
            found += [_leak(row, flight) for flight in flights if self._is_leak(flight, now)]
        return found, flight_count

    async def _read_patiently(
        self, ruling: Ruling, account_ids: Sequence[str]
    ) -> tuple[Reading, dict[int, int]]:
        """Read both sides; where the fence could not be had in time, try again, some times."""
        failure: Exception | None = None
        for _ in range(_TRIES_MAX):
            try:
                async with self._pool.acquire(timeout=_HELD_S) as connection:
                    reading = await self._read(connection, ruling, account_ids)
                    return reading, await self._settled_at(connection, reading)
            except Fenced as exc:
                raise EpochOver from exc
            except POSTGRES_ERRORS as exc:
                failure = exc
                await asyncio.sleep(_HELD_S)
            except asyncpg.PostgresError as exc:
                raise errors.InvariantViolation(f"PostgreSQL refuses a statement: {exc}") from exc
        raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {failure}") from failure

    async def _read(
        self, connection: "Connection", ruling: Ruling, account_ids: Sequence[str]
    ) -> Reading:
        """Read both sides under the fence; whatever takes long or is paused lets go of it."""
        async with asyncio.timeout(_HELD_S), connection.transaction():
            await connection.execute(VERIFY_QUERIES["hold_fence"], SHARD)
            state = await connection.fetchrow(VERIFY_QUERIES["ruling"], SHARD)
            if state is None or tuple(state) != (ruling.mode, ruling.epoch):
                raise EpochOver
            accounts, records = await self._admission.inspect(ruling, account_ids)
            rows = await connection.fetch(VERIFY_QUERIES["loaded_accounts"], list(account_ids))
            journaled = await journaled_among(connection.fetch, records)
            changes = frozenset(str(each.attempt_id) for each in records if each.is_change)
            return Reading(accounts, _by_account(records, accounts), rows, journaled, changes)

    async def _settled_at(self, connection: "Connection", reading: Reading) -> dict[int, int]:
        """Read what accounts had settled at the versions Redis shows."""
        shown = {
            row["account_no"]: int(fields["version"])
            for row in reading.rows
            for fields in [reading.accounts[row["account_id"]][1]]
            if "version" in fields
        }
        lines = await connection.fetch(
            VERIFY_QUERIES["settled_at"], list(shown), list(shown.values())
        )
        settled = {row["account_no"]: int(row["settled_after_minor"]) for row in lines}
        return {number: 0 for number, version in shown.items() if version == 0} | settled

    def _is_leak(self, flight: Flight, now: float) -> bool:
        since = self._next_seen[flight] = self._seen.get(flight, now)
        return now - since > self._leak_age_s


def _by_account(
    records: Sequence[FlightRecord], wanted: Collection[str]
) -> dict[str, list[Flight]]:
    """Sort what is in flight by account, leaving out accounts nobody asks for."""
    by_account: dict[str, list[Flight]] = {}
    for record in records:
        for flight in record.flights:
            if flight.account_id in wanted:
                by_account.setdefault(flight.account_id, []).append(flight)
    return by_account


def _differences(
    row: Any,
    fields: dict[str, str],
    flights: list[Flight],
    journaled: Mapping[int, frozenset[int]],
    settled: dict[int, int],
) -> list[Mismatch]:
    """Compare one account; a reservation that is journaled counts as PostgreSQL counts it."""
    reserved = sum(
        flight.change_minor
        for flight in flights
        if flight.change_minor < 0 and not is_journaled(flight, journaled)
    )
    untold = sum(
        flight.change_minor
        for flight in flights
        if flight.change_minor > 0 and is_journaled(flight, journaled)
    )
    incoming = sum(f.change_minor for f in flights if f.change_minor > 0)
    pending = int(row["credit_minor"]) - int(row["debit_minor"])
    available = int(row["settled_minor"]) + pending + row["credit_limit_minor"]
    sums = int(fields["settled"]) + int(fields["pending_credit"]) - int(fields["pending_debit"])
    expected = {
        "redis_available": (available + reserved - untold, int(fields["available"])),
        "redis_incoming": (incoming, int(fields["incoming"])),
        "redis_sums": (sums + row["credit_limit_minor"], int(fields["available"])),
        "redis_settled": (settled.get(row["account_no"]), int(fields["settled"])),
    }
    differing = [
        _mismatch(
            kind,
            row,
            "a version PostgreSQL has" if wanted is None else _text(row, wanted),
            _text(row, found),
        )
        for kind, (wanted, found) in expected.items()
        if wanted != found
    ]
    reserved_count = sum(not is_journaled(flight, journaled) for flight in flights)
    if int(fields["entries"]) != row["entries"] + reserved_count:
        wanted = str(row["entries"] + reserved_count)
        differing.append(_mismatch("redis_entries", row, wanted, fields["entries"]))
    stop = fields.get("stop", "")
    if stop != row["stop"]:
        differing.append(_mismatch("redis_stop", row, f"'{row['stop']}'", f"'{stop}'"))
    return differing


def _is_changing(fields: dict[str, str], changes: Collection[str]) -> bool:
    """Tell whether an account is being changed; without its record nobody would end that."""
    words = fields.get("stop", "").split(" ")
    return words[0] == CHANGING and words[1] in changes


def _leak(row: Any, flight: Flight) -> Mismatch:
    return _mismatch(
        "reservation_leaked",
        row,
        "confirmed or released",
        f"{_text(row, flight.change_minor)} held by attempt {flight.attempt_id}",
    )


def _mismatch(kind: str, row: Any, expected: str, found: str) -> Mismatch:
    return Mismatch(
        kind=kind, store="redis", account_id=row["account_id"], expected=expected, found=found
    )


def _text(row: Any, amount_minor: int) -> str:
    return decimal_text(amount_minor, row["exponent"])
