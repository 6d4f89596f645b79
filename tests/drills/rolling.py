"""Two API processes behind one address are replaced, one after the other, under load.

A request is sent once and never again. It has failed unless it was answered 2xx on the connection
it was sent on: a refusal, a time-out, and a connection that ends after the first byte was written
all count. Only where the connection was seen to be closed before that is another one made.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from app.kit.money import decimal_text
from tests.cluster import Cluster, ServerProcess
from tests.drills.client import Connection
from tests.drills.integrity import Check, all_passed
from tests.drills.load import EXPONENT
from tests.drills.observed import verify
from tests.drills.report import check_table, table, verdict, write_report
from tests.drills.service import DrillError, Options, private_cluster, wait_for

REPORT_NAME = "rolling_restart_report"
_ACCOUNTS = tuple(f"ROLL{number:02}" for number in range(8))
_OPENING_MINOR = 100_000_000
_ANSWER_S = 20.0
_REPLACED_S = 120.0
_LOAD_BETWEEN_S = 1.0
# Of ten requests one is a read, and of ten clients one makes a connection for each request.
_SHARE = 10
_REPLACED = "processes were replaced"


@dataclass
class Told:
    """What the clients saw, and what they were told to have moved."""

    sent: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    told_to_close: int = 0
    found_closed: int = 0
    worst_s: float = 0.0
    accepted: Counter[str] = field(default_factory=Counter)
    moved_minor: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class RollingResult:
    """A drill that was held."""

    told: Told
    replacements: Sequence[float]
    took_s: float
    clients: int
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """Nothing failed, and every balance is right."""
        return all_passed(self.checks)


class _Client:
    """One client: a connection that is used again, or one for each request."""

    def __init__(self, port: int, told: Told, *, keeps: bool) -> None:
        self._port = port
        self._told = told
        self._keeps = keeps
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, message: bytes) -> bool:
        """Send once; tells whether it was answered 2xx."""
        told = self._told
        told.sent += 1
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_S):
                status = await self._exchange(message)
        except (OSError, TimeoutError, EOFError) as error:
            self.close()
            told.failures[type(error).__name__] += 1
            return False
        told.worst_s = max(told.worst_s, time.monotonic() - begun)
        if not 200 <= status < 300:
            told.failures[str(status)] += 1
            return False
        told.answered += 1
        return True

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, message: bytes) -> int:
        if self._streams is not None and self._streams[0].at_eof():
            self._told.found_closed += 1
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self._told.connections += 1
        reader, writer = self._streams
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        if b"\r\nconnection: close\r\n" in head:
            self._told.told_to_close += 1
            self.close()
        elif not self._keeps:
            self.close()
        return int(head.split(b" ", 2)[1])


async def hold_rolling_restart(options: Options, requests: int, rounds: int) -> RollingResult:
    """Replace the processes again and again until so many requests were sent."""
    with private_cluster(options, {}) as cluster:
        api = await cluster.apart(cluster.start_instances, "instances", options.instances)
        await cluster.apart(cluster.start_worker, "worker")
        await cluster.apart(cluster.wait_ready, api)
        for account_id in _ACCOUNTS:
            await _open(api.url, account_id)
        told, replacements = Told(), list[float]()
        begun = time.monotonic()
        stopping = asyncio.Event()
        clients = [
            asyncio.create_task(_keep_sending(number, api.url, told, stopping))
            for number in range(options.connections)
        ]
        try:
            while told.sent < requests or len(replacements) < rounds:
                await asyncio.sleep(_LOAD_BETWEEN_S)
                replacements.append(await _replace(api, len(replacements) + 1))
        finally:
            stopping.set()
            await asyncio.gather(*clients)
        took_s = time.monotonic() - begun
        checks = await _judge(cluster, api.url, told)
    return RollingResult(told, replacements, took_s, options.connections, checks)


async def _open(url: str, account_id: str) -> None:
    body = {
        "account_id": account_id, "currency": "USD",
        "opening_balance": decimal_text(_OPENING_MINOR, EXPONENT),
    }  # fmt: skip
    connection = Connection(url)
    answer = await connection.request("POST", "/api/v1/accounts", body)
    await connection.close()
    if answer.status != 201:
        raise DrillError(f"{account_id} could not be opened: {answer}")


async def _keep_sending(number: int, url: str, told: Told, stopping: asyncio.Event) -> None:
    port = int(url.rsplit(":", 1)[1])
    client = _Client(port, told, keeps=number % _SHARE != 0)
    count = 0
    while not stopping.is_set():
        count += 1
        account_id = _ACCOUNTS[(number + count) % len(_ACCOUNTS)]
        if count % _SHARE == 0:
            await client.send(
                f"GET /api/v1/balance/{account_id} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            )
            continue
        change_minor = 100 if count % 2 else -99
        if await client.send(_transaction(f"rolling-{number}-{count}", account_id, change_minor)):
            told.accepted[account_id] += 1
            told.moved_minor[account_id] += change_minor
    client.close()


def _transaction(key: str, account_id: str, change_minor: int) -> bytes:
    kind = "credit" if change_minor > 0 else "debit"
    amount = decimal_text(abs(change_minor), EXPONENT)
    body = f'{{"account_id":"{account_id}","amount":"{amount}","type":"{kind}"}}'
    return (
        "POST /api/v1/transaction HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _replace(api: ServerProcess, count: int) -> float:
    """Have the processes replaced and wait until they are; returns how long it took."""
    begun = time.monotonic()
    api.replace()

    async def is_done() -> bool:
        return api.log.read_text().count(_REPLACED) >= count

    if not await wait_for(is_done, _REPLACED_S):
        raise DrillError(f"the processes were not replaced:\n{api.log_tail()}")
    return time.monotonic() - begun


async def _judge(cluster: Cluster, url: str, told: Told) -> list[Check]:
    """Compare what the clients were told with the journal and the balances."""
    connection = await asyncpg.connect(cluster.postgres.url)
    try:
        rows = await connection.fetch(
            "SELECT account_id, count(*) AS count, count(DISTINCT id) AS ids,"
            " sum(CASE type WHEN 'credit' THEN amount ELSE -amount END) AS amount"
            " FROM sub_balances WHERE account_id LIKE 'ROLL%' GROUP BY account_id"
        )
        balances = await connection.fetch(
            "SELECT id AS account_id, settled_balance + pending_credit - pending_debit AS amount"
            " FROM account_balances WHERE id LIKE 'ROLL%'"
        )
    finally:
        await connection.close()
    # Each account's opening is an entry as well.
    count = {row["account_id"]: row["count"] - 1 for row in rows}
    sums = {row["account_id"]: round(row["amount"] * 100) for row in rows}
    shown = {row["account_id"]: round(row["amount"] * 100) for row in balances}
    expected = {name: _OPENING_MINOR + told.moved_minor[name] for name in _ACCOUNTS}
    proof = await verify(url)
    failed = told.sent - told.answered
    return [
        Check(
            "every request was answered 2xx, sent once",
            failed == 0,
            f"{failed} of {told.sent} failed: {dict(told.failures) or 'none'}",
        ),
        Check(
            "every accepted movement is in the journal exactly once",
            count == dict(told.accepted) and all(row["count"] == row["ids"] for row in rows),
            f"{sum(told.accepted.values())} accepted, {sum(count.values())} in the journal",
        ),
        Check(
            "every balance is the opening and what clients were told",
            shown == sums == expected,
            f"{len(shown)} accounts, {decimal_text(sum(shown.values()), EXPONENT)} in all",
        ),
        Check(
            "GET /api/v1/verify proves it",
            proof.get("status") == "verified" and proof.get("complete") is True,
            str(proof.get("status")),
        ),
    ]


def summary_lines(result: RollingResult) -> list[str]:
    """The figures and the verdict."""
    told = result.told
    failed = told.sent - told.answered
    slowest = max(result.replacements)
    return [
        f"* {told.sent} requests of {result.clients} clients in {result.took_s:.0f} s",
        f"* {failed} requests failed",
        f"* {len(result.replacements)} restarts of all processes, {slowest:.1f} s at most",
        f"* {told.connections} connections made, {told.told_to_close} answers said `close`",
        f"* {told.found_closed} connections found closed before a request was sent",
        f"* slowest answer {told.worst_s:.2f} s",
        f"* Rolling restart: {verdict(result.passed)}",
    ]


def write_rolling_report(folder: Path, result: RollingResult) -> Path:
    """Write the drill's report; returns where."""
    rows = [(number, f"{took:.2f} s") for number, took in enumerate(result.replacements, 1)]
    return write_report(
        folder,
        REPORT_NAME,
        [
            "# Rolling restart", "", *summary_lines(result), "", *(__doc__ or "").splitlines()[2:],
            "", *check_table(result.checks), "", *table(("restart", "took"), rows),
        ],
    )  # fmt: skip
