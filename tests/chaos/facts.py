"""What PostgreSQL and Redis hold, read directly, by statements of the kit's own.

It shares no code with the service, so that both cannot be wrong in the same way.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg
import redis.asyncio as redis_async

STATEMENT_TIMEOUT_S = 60.0
REDIS_TIMEOUT_S = 5.0
SCAN_COUNT = 1_000
_RECORD_LINES = 4
_LOADED = "loaded:"


class AccountRow(NamedTuple):
    """One account; `version` counts its settled entries."""

    account_id: str
    kind: str
    currency: str
    exponent: int
    credit_limit_minor: int
    settled_minor: int
    version: int
    earlier_limit_minor: int = 0

    @property
    def highest_limit_minor(self) -> int:
        """The highest limit it ever had; the earlier one is the highest before a change."""
        return max(self.credit_limit_minor, self.earlier_limit_minor)


class EntryRow(NamedTuple):
    """One movement in journal order; `transaction_id` is the one the public view shows, `hold_id`
    the hold that it is shown with.
    """

    batch_seq: int
    item_no: int
    account_id: str
    change_minor: int
    transaction_id: str
    reference: str
    status: str
    settlement_id: int | None
    epoch: int
    mode: str
    hold_id: str = ""


class BatchRow(NamedTuple):
    """One batch with the number of entries it claims and has."""

    batch_seq: int
    status: str
    epoch: int
    entry_count: int
    entries: int


class KeyRow(NamedTuple):
    """One used key or id and the entry it names; `account_id` is empty when there is no entry."""

    name: str
    batch_seq: int
    item_no: int
    account_id: str


class HoldRow(NamedTuple):
    """One hold, by the reference it was placed with; `ends_in_s` by the clock of PostgreSQL."""

    hold_id: str
    reference: str
    account_id: str
    credit_account_id: str
    amount_minor: int
    captured_minor: int
    released_minor: int
    status: str
    version: int
    ends_in_s: float | None = None


class HoldActRow(NamedTuple):
    """What was done to a hold."""

    hold_id: str
    version: int
    kind: str
    captured_minor: int
    released_minor: int


class LineRow(NamedTuple):
    """What one settlement did to one account."""

    account_id: str
    version_after: int
    settlement_id: int
    entry_count: int
    debit_minor: int
    credit_minor: int
    settled_after_minor: int


class ViewRow(NamedTuple):
    """What the public views show of one account, in major units."""

    account_id: str
    settled: Decimal
    pending_debit: Decimal
    pending_credit: Decimal
    available: Decimal


class Ruling(NamedTuple):
    """Who decides."""

    mode: str
    epoch: int
    token: str | None


class FoundRow(NamedTuple):
    """Something the service's own check in the background found while the run went on."""

    kind: str
    account_id: str
    expected: str
    found: str


class RedisFacts(NamedTuple):
    """What the ruling epoch has in Redis: fields by account, the loaded set, what is in flight."""

    has_token: bool
    accounts: dict[str, dict[str, str]]
    loaded: frozenset[str]
    flight: dict[str, str]


class Facts(NamedTuple):
    """Everything the checker compares, PostgreSQL's part from one snapshot."""

    ruling: Ruling
    accounts: dict[str, AccountRow]
    entries: list[EntryRow]
    batches: list[BatchRow]
    keys: list[KeyRow]
    lines: list[LineRow]
    views: dict[str, ViewRow]
    found: list[FoundRow]
    holds: tuple[HoldRow, ...] = ()
    hold_acts: tuple[HoldActRow, ...] = ()
    redis: RedisFacts | None = None


_ACCOUNTS = """
SELECT account_id, kind, currency, exponent, credit_limit_minor, settled_minor, version,
       (SELECT coalesce(max((c.before ->> 'credit_limit_minor')::bigint), 0)
          FROM account_changes c WHERE c.account_no = accounts.account_no) AS earlier_limit_minor
  FROM accounts WHERE $1 = '' OR account_id LIKE $1 || '%'"""
_ENTRIES = """
SELECT e.batch_seq, e.item_no, a.account_id, e.change_minor, v.id::text AS transaction_id,
       coalesce(e.reference, '') AS reference, b.status, b.settlement_id, b.epoch, b.mode,
       coalesce(hold_of_v1(e.batch_seq, e.item_no, a.account_id, t.other_account_id)::text, '')
  FROM journal_entries e JOIN accounts a USING (account_no)
  LEFT JOIN journal_batches b ON b.batch_seq = e.batch_seq
  LEFT JOIN LATERAL transfer_of_v1(e.batch_seq, e.created_at, e.item_no, b.transfer_nos) AS t
         ON b.transfer_nos IS NOT NULL
  LEFT JOIN sub_balances v ON v.batch_seq = e.batch_seq AND v.item_no = e.item_no
                          AND v.account_id = a.account_id
 WHERE $1 = '' OR a.account_id LIKE $1 || '%' ORDER BY e.batch_seq, e.item_no"""
_BATCHES = """
SELECT b.batch_seq, b.status, b.epoch, b.entry_count,
       (SELECT count(*) FROM journal_entries e WHERE e.batch_seq = b.batch_seq)::int AS entries
  FROM journal_batches b WHERE $1 = ''"""
_KEYS = """
SELECT k.name, k.batch_seq, k.item_no, coalesce(a.account_id, '') AS account_id
  FROM idempotency_keys k
  LEFT JOIN journal_entries e ON e.account_no = k.account_no AND e.batch_seq = k.batch_seq
                             AND e.item_no = k.item_no
  LEFT JOIN accounts a ON a.account_no = e.account_no
 WHERE $1 = '' OR a.account_id LIKE $1 || '%'"""
_LINES = """
SELECT a.account_id, l.version_after, l.settlement_id, l.entry_count, l.debit_minor, l.credit_minor,
       l.settled_after_minor
  FROM settlement_lines l JOIN accounts a USING (account_no)
 WHERE $1 = '' OR a.account_id LIKE $1 || '%' ORDER BY a.account_id, l.version_after"""
_VIEWS = """
SELECT id, settled_balance, pending_debit, pending_credit, available_balance
  FROM account_balances WHERE $1 = '' OR id LIKE $1 || '%'"""
_FOUND = """
SELECT DISTINCT m ->> 'kind', coalesce(m ->> 'account_id', ''), m ->> 'expected', m ->> 'found'
  FROM verifications v CROSS JOIN jsonb_array_elements(v.mismatches) AS m
 WHERE $1 = '' OR m ->> 'account_id' LIKE $1 || '%'"""
_HOLDS = """
SELECT h.hold_id::text, coalesce(e.reference, ''), a.account_id, coalesce(c.account_id, ''),
       h.amount_minor, h.captured_minor, h.released_minor, h.status, h.version,
       extract(epoch FROM h.expires_at - statement_timestamp())::float8
  FROM holds h JOIN accounts a USING (account_no)
  LEFT JOIN accounts c ON c.account_no = h.credit_account_no
  LEFT JOIN sub_balances e ON e.id = h.hold_id AND e.account_id = a.account_id
 WHERE $1 = '' OR a.account_id LIKE $1 || '%'"""
_HOLD_ACTS = """
SELECT x.hold_id::text, x.version, x.kind, x.captured_minor, x.released_minor
  FROM hold_acts x JOIN holds h USING (hold_id) JOIN accounts a USING (account_no)
 WHERE $1 = '' OR a.account_id LIKE $1 || '%' ORDER BY x.hold_id, x.version"""
_RULING = "SELECT mode, epoch, redis_token FROM ledger_shards WHERE shard = 0"


async def read_postgres(database_url: str, prefix: str = "") -> Facts:
    """Read one snapshot; a prefix restricts it to accounts of that name and what is theirs."""
    connection = await asyncpg.connect(database_url, command_timeout=STATEMENT_TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):

            async def rows(statement: str) -> list[Any]:
                return list(await connection.fetch(statement, prefix))

            ruling = await connection.fetchrow(_RULING)
            accounts = [AccountRow(*_integers(row)) for row in await rows(_ACCOUNTS)]
            return Facts(
                ruling=Ruling(*ruling),
                accounts={account.account_id: account for account in accounts},
                entries=[EntryRow(*row) for row in await rows(_ENTRIES)],
                batches=[BatchRow(*row) for row in await rows(_BATCHES)],
                keys=[KeyRow(*row) for row in await rows(_KEYS)],
                lines=[LineRow(*_integers(row)) for row in await rows(_LINES)],
                views={row["id"]: ViewRow(*row) for row in await rows(_VIEWS)},
                found=[FoundRow(*row) for row in await rows(_FOUND)],
                holds=tuple(HoldRow(*row) for row in await rows(_HOLDS)),
                hold_acts=tuple(HoldActRow(*row) for row in await rows(_HOLD_ACTS)),
            )
    finally:
        await connection.close(timeout=STATEMENT_TIMEOUT_S)


async def read_redis(redis_url: str, epoch: int, prefix: str = "") -> RedisFacts:
    """Read what an epoch has in Redis; nothing may be under way, for it is no snapshot."""
    client = redis_async.Redis.from_url(
        redis_url,
        decode_responses=True,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
    )
    base = f"subbalance:{{0}}:{epoch}:"
    async with client:
        token = await client.hgetall(f"subbalance:{{0}}:epoch:{epoch}")
        accounts: dict[str, dict[str, str]] = {}
        async for key in client.scan_iter(match=f"{base}account:{prefix}*", count=SCAN_COUNT):
            accounts[key.removeprefix(f"{base}account:")] = await client.hgetall(key)
        flight = await _whole(client, f"{base}flight")
    loaded = {
        field.removeprefix(_LOADED).removeprefix(f"{base}account:")
        for field in token
        if field.startswith(_LOADED)
    }
    mine = frozenset(account_id for account_id in loaded if account_id.startswith(prefix))
    return RedisFacts("identity" in token, accounts, mine, flight)


async def _whole(client: "redis_async.Redis", key: str) -> dict[str, str]:
    """A key's content, whatever its type; empty when there is none."""
    kind = await client.type(key)
    if kind == "hash":
        return dict(await client.hgetall(key))
    if kind == "zset":
        scored = await client.zrange(key, 0, -1, withscores=True)
        return {str(name): str(score) for name, score in scored}
    if kind == "set":
        return dict.fromkeys(map(str, await client.smembers(key)), "")
    return {}


def reservations(flight: dict[str, str], account_id: str) -> dict[str, list[int]]:
    """What an account has in flight: the signed changes of each attempt that says so."""
    held: dict[str, list[int]] = {}
    for attempt_id, text in flight.items():
        for account_key, change_minor in _changes(text):
            if account_key.partition(":account:")[2] == account_id:
                held.setdefault(attempt_id, []).append(change_minor)
    return held


def _changes(text: str) -> Iterator[tuple[str, int]]:
    """The account's key and signed change of every item of an attempt's record, refused or not.

    Read independently of the service; what is no record has none.
    """
    lines = text.split("\n")
    if len(lines) != _RECORD_LINES:
        return
    words = iter(lines[2].split(" "))
    for account_key in lines[1].split(" "):
        for _ in range(int(next(words))):
            yield account_key, int(next(words))


def _integers(row: Any) -> list[Any]:
    """Columns with every decimal, which has no fraction here, as an integer."""
    return [int(value) if isinstance(value, Decimal) else value for value in row]
