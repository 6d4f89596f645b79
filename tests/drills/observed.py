"""What the service, PostgreSQL and Redis say: the other side of the story, read in minor units.

Reads only. PostgreSQL is read in one snapshot through its public views.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis

from app.infra.redis import REDIS_ERRORS
from app.ledger.keys import PREFIX, account_key, epoch_of, flight_key
from tests.drills.client import Connection
from tests.drills.history import History

_SHARD = 0
_HTTP_OK = 200
_QUIET_POLL_S = 0.2
# A proof that began in the middle of the history is followed by one from its beginning.
_PROOFS_MAX = 3
KEY_PREFIX = "key:"
_ROWS = """
    SELECT s.id::text, k.name, s.account_id, s.type, s.amount, s.status, s.batch_seq, s.item_no,
           b.mode, b.epoch, a.exponent
      FROM sub_balances s
      JOIN journal_batches b ON b.batch_seq = s.batch_seq
      JOIN accounts a ON a.account_id = s.account_id
      LEFT JOIN idempotency_keys k ON k.batch_seq = s.batch_seq AND k.item_no = s.item_no
     ORDER BY s.batch_seq, s.item_no
"""
_BALANCES = """
    SELECT v.id, v.currency, v.settled_balance, v.pending_debit, v.pending_credit,
           v.available_balance, v.version, a.kind, a.exponent, a.credit_limit_minor
      FROM account_balances v JOIN accounts a ON a.account_id = v.id ORDER BY v.id
"""


class Row(NamedTuple):
    """One movement in the journal; `key` is None where its client gave none."""

    transaction_id: str
    key: str | None
    account_id: str
    change_minor: int
    status: str
    batch_seq: int
    item_no: int
    mode: str
    epoch: int


class Balance(NamedTuple):
    """One account's balance as one of the three tells it; a limit of theirs is in `available`."""

    settled_minor: int
    pending_debit_minor: int
    pending_credit_minor: int
    available_minor: int


@dataclass(slots=True)
class Observed:
    """Everything that can be seen at one instant at which nothing is under way."""

    mode: str
    epoch: int
    rows: list[Row] = field(default_factory=list)
    balances: dict[str, Balance] = field(default_factory=dict)
    limits_minor: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    totals_minor: dict[str, tuple[int, int]] = field(default_factory=dict)
    api: dict[str, dict[str, Balance]] = field(default_factory=dict)
    redis: dict[str, Balance] = field(default_factory=dict)
    redis_versions: dict[str, int] = field(default_factory=dict)
    reservations: list[str] = field(default_factory=list)
    stale_keys: list[str] = field(default_factory=list)
    verify: dict[str, Any] = field(default_factory=dict)

    def row_of(self, key: str) -> Row | None:
        """The movement that was journaled under a key."""
        return next((row for row in self.rows if row.key == key), None)

    @property
    def is_quiet(self) -> bool:
        """Tell whether all is settled, Redis was told, and old epochs were swept out of it."""
        return not (self.reservations or self.stale_keys) and all(
            not balance.pending_debit_minor
            and not balance.pending_credit_minor
            and self.redis_versions.get(account_id) == self.versions[account_id]
            for account_id, balance in self.balances.items()
        )


async def observe(database_url: str, redis_url: str, urls: Sequence[str]) -> Observed:
    """Look once, everywhere; accounts that Redis has not loaded are missing in `redis`."""
    observed = await _observe_postgres(database_url)
    with contextlib.suppress(*REDIS_ERRORS):
        await _observe_redis(observed, redis_url)
    for url in urls:
        observed.api[url] = await _observe_api(url, observed)
    return observed


async def observe_quiet(
    database_url: str, redis_url: str, urls: Sequence[str], timeout_s: float
) -> Observed:
    """Look until everything is settled and Redis knows, a bounded time; then ask for the proof."""
    deadline = time.monotonic() + timeout_s
    while True:
        observed = await observe(database_url, redis_url, urls)
        if observed.is_quiet or time.monotonic() >= deadline:
            break
        await asyncio.sleep(_QUIET_POLL_S)
    for _ in range(_PROOFS_MAX):
        observed.verify = await verify(urls[0])
        if observed.verify.get("complete", True):
            break
    return observed


async def verify(url: str) -> dict[str, Any]:
    """Ask the service to prove its data; where it does not answer 200, `status` says so."""
    connection = Connection(url)
    answer = await connection.request("GET", "/api/v1/verify")
    await connection.close()
    if answer.status != _HTTP_OK:
        return {"status": f"answered {answer.status} {answer.body.get('code', '')}"}
    return answer.body


async def _observe_postgres(database_url: str) -> Observed:
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            (state,) = await connection.fetch("SELECT mode, epoch FROM ledger_shards")
            observed = Observed(state["mode"], state["epoch"])
            for found in await connection.fetch(_ROWS):
                observed.rows.append(_row(found))
            for found in await connection.fetch(_BALANCES):
                _note_balance(observed, found)
    finally:
        await connection.close()
    return observed


def _row(found: Any) -> Row:
    minor = minor_of(found["amount"], found["exponent"])
    name = found["name"]
    return Row(
        transaction_id=found["id"],
        key=name.removeprefix(KEY_PREFIX) if name and name.startswith(KEY_PREFIX) else name,
        account_id=found["account_id"],
        change_minor=minor if found["type"] == "credit" else -minor,
        status=found["status"],
        batch_seq=found["batch_seq"],
        item_no=found["item_no"],
        mode=found["mode"],
        epoch=found["epoch"],
    )


def _note_balance(observed: Observed, found: Any) -> None:
    settled, debit, credit, available = (
        minor_of(found[name], found["exponent"])
        for name in ("settled_balance", "pending_debit", "pending_credit", "available_balance")
    )
    total, pending = observed.totals_minor.get(found["currency"], (0, 0))
    observed.totals_minor[found["currency"]] = (total + settled, pending + credit - debit)
    if found["kind"] != "external":
        observed.balances[found["id"]] = Balance(settled, debit, credit, available)
        observed.limits_minor[found["id"]] = int(found["credit_limit_minor"])
        observed.versions[found["id"]] = int(found["version"])


async def _observe_redis(observed: Observed, redis_url: str) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        for account_id in observed.balances:
            fields: dict[Any, Any] = await client.hgetall(
                account_key(_SHARD, observed.epoch, account_id)
            )
            if not fields:
                continue
            observed.redis[account_id] = Balance(
                int(fields["settled"]),
                int(fields["pending_debit"]),
                int(fields["pending_credit"]),
                int(fields["available"]),
            )
            observed.redis_versions[account_id] = int(fields["version"])
            if fields["incoming"] != "0":
                observed.reservations.append(f"{account_id} incoming {fields['incoming']}")
        flights: dict[Any, Any] = await client.hgetall(flight_key(_SHARD, observed.epoch))
        observed.reservations += [
            f"attempt {name}: {' '.join(str(text).splitlines())}" for name, text in flights.items()
        ]
        async for key in client.scan_iter(match=f"{PREFIX}:{{{_SHARD}}}:*"):
            if (epoch_of(key) or observed.epoch) < observed.epoch:
                observed.stale_keys.append(key)


async def _observe_api(url: str, observed: Observed) -> dict[str, Balance]:
    connection = Connection(url)
    balances = {}
    for account_id in observed.balances:
        answer = await connection.request("GET", f"/api/v1/balance/{account_id}")
        if answer.status == _HTTP_OK:
            balances[account_id] = balance_of(answer.body, 2)
    await connection.close()
    return balances


def balance_of(body: dict[str, Any], exponent: int) -> Balance:
    """Read a balance the API told."""
    fields = ("settled_balance", "pending_debit", "pending_credit", "available_balance")
    return Balance(*(minor_of(Decimal(body[name]), exponent) for name in fields))


def first_accepted_at(
    history: History, observed: Observed, mode: str, since: float, above_epoch: int
) -> float | None:
    """When a client first learnt of an acceptance by a mode, in an epoch above one; or None."""
    rows = {row.key: row for row in observed.rows}
    moments = []
    for intention in history.intentions:
        row, accepted_at = rows.get(intention.key), intention.accepted_at
        if row is None or accepted_at is None or accepted_at < since:
            continue
        if row.mode == mode and row.epoch > above_epoch:
            moments.append(accepted_at)
    return min(moments, default=None)


def minor_of(amount: Decimal, exponent: int) -> int:
    """Count an amount in minor units; `ValueError` when it is not a whole number of them."""
    minor = amount.scaleb(exponent)
    if minor != int(minor):
        raise ValueError(f"{amount} has parts of a minor unit")
    return int(minor)
