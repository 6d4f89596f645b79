"""Drives the service with wrk at saturation over random accounts, and checks the books after it.

Accounts are opened in bulk with a credit limit and nothing on them, so every debit is accepted.
"""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from app.ledger.model import external_account_id
from bench.compare.samples import Figures
from bench.compare.wrk import read_figures
from bench.growth.stand import Stand
from tests.cluster import ServerProcess

SCRIPT = Path(__file__).resolve().parent / "wrk_random.lua"
CONNECTIONS = 64
_ASKED_MAX = 300
_OPEN = """
INSERT INTO accounts (account_id, kind, currency, exponent, credit_limit_minor,
                      created_at, updated_at)
SELECT 'A' || lpad(n::text, 7, '0'), 'customer', 'USD', 2, 100000000000000, now(), now()
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
    ON CONFLICT (account_id) DO NOTHING
"""
_EXTERNAL = f"""
INSERT INTO accounts (account_id, kind, currency, exponent, created_at, updated_at)
SELECT '{external_account_id("USD")}', 'external', 'USD', 2, now(), now()
 WHERE NOT EXISTS (SELECT FROM accounts WHERE kind = 'external')
"""
_NEW = """
SELECT count(*) AS rows, coalesce(sum(change_minor), 0)::bigint AS change
  FROM journal_entries WHERE batch_seq > $1 AND created_at >= $2
"""


class Mark(NamedTuple):
    """How the books stood before a run."""

    batch_seq: int
    at: Any
    customers_minor: int


class Run(NamedTuple):
    """One run of wrk over all API processes, and what the parts used meanwhile."""

    figures: Figures
    cpu_us: dict[str, float]
    wal_bytes: float

    @property
    def per_second(self) -> float:
        """Accepted transactions per second."""
        return self.figures.accepted / (self.figures.duration_us / 1_000_000)

    def as_figures(self) -> dict[str, float]:
        """Everything by name, as a point of a curve has it."""
        cpu = {f"{part} CPU us/tx": used for part, used in self.cpu_us.items()}
        latency = {"p50 ms": self.figures.p50_us / 1_000, "p99 ms": self.figures.p99_us / 1_000}
        return {"tx/s": self.per_second, **cpu, "WAL bytes/tx": self.wal_bytes, **latency}


def open_accounts(stand: Stand, number: int) -> None:
    """Have so many accounts, whatever there was before."""
    stand.execute(_EXTERNAL)
    have = stand.ask("SELECT count(*) FROM accounts WHERE kind = 'customer'")
    if have < number:
        stand.rows(_OPEN, have, number)
        stand.execute("VACUUM ANALYZE accounts")


def account(number: int) -> str:
    """The id of an account that was opened here."""
    return f"A{number:07}"


def mark(stand: Stand) -> Mark:
    """Note how the books stand; nothing may be under way."""
    last, at = stand.rows("SELECT coalesce(max(batch_seq), 0), now() FROM journal_batches")[0]
    return Mark(last, at, _customers_minor(stand))


def drive(
    stand: Stand,
    apis: list[ServerProcess],
    accounts: int,
    seconds: float,
    keys: str = "time",
    connections: int = CONNECTIONS,
) -> Run:
    """Keep connections busy for a while, spread over the API processes."""
    run, before = f"{time.time_ns() // 1_000_000:012x}", stand.cpu_s()
    wal_before = stand.wal_position()
    each = max(1, connections // len(apis))
    children = [_wrk(api.url, accounts, seconds, keys, each, run, n) for n, api in enumerate(apis)]
    outputs = [child.communicate(timeout=seconds + 60)[0] for child in children]
    after, wal_after = stand.cpu_s(), stand.wal_position()
    all_figures = [read_figures(output) for output in outputs]
    figures = Figures(
        *(sum(f[place] for f in all_figures) for place in range(3)),
        *(max(f[place] for f in all_figures) for place in range(3, 8)),
    )
    accepted = max(1, figures.accepted)
    cpu_us = {part: (after[part] - before[part]) / accepted * 1e6 for part in after}
    return Run(figures, cpu_us, (wal_after - wal_before) / accepted)


def wrk_only(url: str, accounts: int, seconds: float) -> Figures:
    """Keep 64 connections of one API busy for a while, from a thread if need be."""
    run = f"{time.time_ns() // 1_000_000:012x}"
    child = _wrk(url, accounts, seconds, "time", CONNECTIONS, run, 0)
    return read_figures(child.communicate(timeout=seconds + 60)[0])


def check(stand: Stand, before: Mark, run: Figures, url: str, accounts: int) -> None:
    """Compare rows, settled balances, Redis and the API to the cent; ends the run otherwise.

    The worker must run: everything has to be settled first.
    """
    stand.rest()
    new = stand.rows(_NEW, before.batch_seq, before.at)[0]
    possible = range(run.accepted, run.accepted + CONNECTIONS * 4 + 1)
    facts = {
        "every acceptance has its row": new["rows"] in possible,
        "a row is a cent": new["change"] == -new["rows"],
        "settled is what rows say": _customers_minor(stand)
        == before.customers_minor + new["change"],
        "no refusals": run.refused == 0 and run.errors == 0,
        "redis and api agree": _agree(stand, url, accounts),
    }
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}; {run} {dict(new)}")


def verify(url: str) -> None:
    """Let the service prove its own books; ends the run when they are wrong."""
    told = ask(f"{url}/api/v1/verify")
    if told["mismatches"]:
        raise SystemExit(f"the books are wrong: {told}")


def ask(url: str) -> Any:
    """Read a JSON answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def _wrk(
    url: str, accounts: int, seconds: float, keys: str, connections: int, run: str, number: int
) -> "subprocess.Popen[str]":
    shape = [f"-t{min(2, connections)}", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    target = ["-s", str(SCRIPT), f"{url}/api/v1/transaction"]
    command = ["wrk", *shape, "--timeout", "20s", *target]
    environment = {
        "PATH": os.environ["PATH"],
        "BENCH_ACCOUNTS": str(accounts),
        "BENCH_RUN": f"{run[:-1]}{number:x}",
        "BENCH_KEYS": keys,
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _customers_minor(stand: Stand) -> int:
    statement = "SELECT coalesce(sum(settled_minor), 0) FROM accounts WHERE kind = 'customer'"
    return int(stand.ask(statement))


def _agree(stand: Stand, url: str, accounts: int) -> bool:
    """Compare PostgreSQL with Redis for some accounts, and with the API for fewer."""
    step = max(1, accounts // _ASKED_MAX)
    names = [account(number) for number in range(0, accounts, step)][:_ASKED_MAX]
    known = stand.rows(
        "SELECT account_id, settled_minor + credit_limit_minor AS available FROM accounts"
        " WHERE account_id = ANY ($1)",
        names,
    )
    epoch = stand.ask("SELECT epoch FROM ledger_shards")
    for row in known:
        key = f"subbalance:{{0}}:{epoch}:account:{row['account_id']}"
        held = stand.redis.hget(key, "available")
        if held is not None and int(str(held)) != int(row["available"]):
            return False
    for row in known[:5]:
        told = ask(f"{url}/api/v1/balance/{row['account_id']}")["available_balance"]
        if round(float(told) * 100) != int(row["available"]):
            return False
    return True
