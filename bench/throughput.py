"""Single POSTs on one hot account, with and without micro-batching, interleaved in one run.

`python -m bench.throughput` starts its own durable servers, drives each variant with wrk, checks
every balance after each run, and writes the raw samples and a table to `bench/results/`:
`lonely` for one connection, `busy` for many.
"""

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import redis

from app.infra.embedded import start_postgres, start_redis

FOLDER = Path(__file__).resolve().parent
ACCOUNT = "BENCH"
OPENING = 50_000_000
VARIANTS = {
    "micro-batched": {},
    "unbatched, 4 slots": {"SUBBALANCE_BATCH_ITEMS": "1", "SUBBALANCE_SLOTS": "4"},
    "unbatched, 16 slots": {"SUBBALANCE_BATCH_ITEMS": "1", "SUBBALANCE_SLOTS": "16"},
    "unbatched, 64 slots": {"SUBBALANCE_BATCH_ITEMS": "1", "SUBBALANCE_SLOTS": "64"},
}
ROUNDS = 3
SECONDS = 6
LONELY_SECONDS = 2
CONNECTIONS = (64, 256)
LONELY_VARIANTS = ("micro-batched", "unbatched, 16 slots")
LONELY_ROUNDS = 16
_READY_S = 30


class Sample(NamedTuple):
    """One run of wrk: latencies in microseconds."""

    variant: str
    connections: int
    round: int
    accepted: int
    refused: int
    errors: int
    duration_us: int
    mean_us: int
    p50_us: int
    p95_us: int
    p99_us: int

    @property
    def per_second(self) -> float:
        """Accepted transactions per second."""
        return self.accepted / (self.duration_us / 1_000_000)


def main(arguments: list[str]) -> int:
    """Measure what is named (`busy`, `lonely`; both by default), check, and write the results.

    Ends with a sentence and 1 when a balance is not exact.
    """
    phases = {"lonely": _lonely, "busy": _busy}
    wanted = arguments or list(phases)
    if not set(wanted) <= set(phases):
        print(f"usage: python -m bench.throughput [{'|'.join(phases)}]", file=sys.stderr)
        return 2
    if shutil.which("wrk") is None:
        print("wrk is needed (Debian: apt-get install wrk)", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-bench-")))
        folder.chmod(0o755)
        postgres = start_postgres(folder / "postgres", print)
        stack.callback(postgres.stop)
        server = start_redis(folder / "redis")
        stack.callback(server.stop)
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": postgres.url,
            "REDIS_URL": server.url,
            "LOG_LEVEL": "warning",
        }
        _run(environment, "app.bootstrap")
        for name in wanted:
            _write(name, list(phases[name](environment, folder)))
    return 0


def _busy(environment: dict[str, str], folder: Path) -> Iterator[Sample]:
    """Many connections: one variant after the other, round by round."""
    for number in range(1, ROUNDS + 1):
        for variant, settings in VARIANTS.items():
            with _service({**environment, **settings}, folder) as url:
                _open_account(url)
                for connections in CONNECTIONS:
                    yield _measured(environment, url, variant, connections, number)


def _lonely(environment: dict[str, str], folder: Path) -> Iterator[Sample]:
    """One connection: both variants are up at once and driven in turns, so they share the noise.

    Each is the first to be started half of the time, for that alone makes a difference here.
    """
    for half, order in enumerate((LONELY_VARIANTS, LONELY_VARIANTS[::-1])):
        with ExitStack() as stack:
            urls = {
                variant: stack.enter_context(_service({**environment, **VARIANTS[variant]}, folder))
                for variant in order
            }
            _open_account(urls[order[0]])
            for number in range(LONELY_ROUNDS // 2):
                for variant in order[:: 1 if number % 2 else -1]:
                    round_number = half * LONELY_ROUNDS // 2 + number + 1
                    yield _measured(environment, urls[variant], variant, 1, round_number)


def _measured(
    environment: dict[str, str], url: str, variant: str, connections: int, number: int
) -> Sample:
    sample = _drive(url, variant, connections, number)
    _check(url, environment["REDIS_URL"], environment["DATABASE_URL"], sample)
    print(_line(sample), flush=True)
    return sample


def _drive(url: str, variant: str, connections: int, number: int) -> Sample:
    seconds = LONELY_SECONDS if connections == 1 else SECONDS
    threads = 1 if connections == 1 else 2
    run = f"r{time.time_ns()}"
    output = subprocess.run(
        ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s",
         "-s", str(FOLDER / "wrk_transactions.lua"), f"{url}/api/v1/transaction"],
        env={"PATH": os.environ["PATH"], "BENCH_RUN": run, "BENCH_ACCOUNT": ACCOUNT,
             "BENCH_SPREAD": os.environ.get("BENCH_SPREAD", "0")},
        capture_output=True, text=True, check=True, timeout=seconds + 60,
    ).stdout  # fmt: skip
    figures = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return Sample(variant, connections, number, *(int(part) for part in figures.split()[1:]))


def _check(url: str, redis_url: str, database_url: str, sample: Sample) -> None:
    """Compare API, PostgreSQL and Redis to the cent, and all of them with what wrk counted."""
    _wait_quiet(url)
    balance = json.loads(_get(f"{url}/api/v1/balance/{ACCOUNT}"))
    statement = (
        "SELECT count(*), coalesce(sum(amount), 0) FROM sub_balances"
        f" WHERE account_id = '{ACCOUNT}' AND type = 'debit'"
    )
    counted = _ask_postgres(database_url, statement)
    rows, total = int(counted[0]), round(float(counted[1]) * 100)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        (key,) = sorted(client.keys(f"subbalance:*:account:{ACCOUNT}"))[-1:]
        fields: dict[str, Any] = client.hgetall(key)
    available = OPENING * 100 - total
    facts = {
        "api": round(float(balance["available_balance"]) * 100) == available,
        "redis": int(fields["available"]) == available,
        "nothing in flight": not [name for name in fields if name.startswith("f:")],
        "a row is a cent": rows == total,
        "no refusals": sample.refused == 0 and sample.errors == 0,
        "every acceptance has its row": _all_rows(sample, rows),
    }
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise SystemExit(f"{sample}: wrong: {', '.join(wrong)}; {fields}, {balance}, {counted}")


_rows_before = 0


def _all_rows(sample: Sample, rows: int) -> bool:
    """Compare, knowing that wrk ends without reading the last answer of each connection."""
    global _rows_before
    new, _rows_before = rows - _rows_before, rows
    return sample.accepted <= new <= sample.accepted + sample.connections


def _ask_postgres(database_url: str, statement: str) -> list[str]:
    async def ask() -> list[str]:
        connection = await asyncpg.connect(database_url)
        rows = await connection.fetch(statement)
        await connection.close()
        return [str(figure) for figure in rows[0]]

    return asyncio.run(ask())


def _wait_quiet(url: str) -> None:
    """Wait until nothing is pending: what wrk left behind has been decided and settled."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if json.loads(_get(f"{url}/api/v1/pending/{ACCOUNT}?limit=1"))["count"] == 0:
            return
        time.sleep(0.2)
    raise SystemExit("the settler does not catch up")


@contextmanager
def _service(environment: dict[str, str], folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**environment, "PORT": str(port)}
    processes = []
    with (folder / "service.log").open("ab") as log:
        for module in ("app.main", "app.workers"):
            command = [sys.executable, "-m", module]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                _get(f"{url}/health/ready")
                break
            time.sleep(0.1)
        yield url
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


def _open_account(url: str) -> None:
    body = {"account_id": ACCOUNT, "opening_balance": str(OPENING)}
    request = urllib.request.Request(
        f"{url}/api/v1/accounts",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def _run(environment: dict[str, str], module: str) -> None:
    subprocess.run([sys.executable, "-m", module], env=environment, check=True, timeout=60)


def _line(sample: Sample) -> str:
    return (
        f"{sample.variant:22} {sample.connections:4} conns  {sample.per_second:9,.0f}/s"
        f"  p50 {sample.p50_us / 1000:7.2f}  p95 {sample.p95_us / 1000:7.2f}"
        f"  p99 {sample.p99_us / 1000:7.2f} ms"
    )


def _write(name: str, samples: list[Sample]) -> None:
    """Write the raw samples and the table of medians with ratios to the better unbatched one."""
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    raw = [sample._asdict() for sample in samples]
    (results / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    lines = [
        "| connections | variant | accepted/s, each round | median | p50 / p95 / p99 ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for connections in sorted({sample.connections for sample in samples}):
        rates = {
            variant: statistics.median(each)
            for variant in VARIANTS
            if (each := _rates(samples, variant, connections))
        }
        base = max(rate for variant, rate in rates.items() if variant.startswith("unbatched"))
        for variant, rate in rates.items():
            rounds = ", ".join(f"{one:,.0f}" for one in _rates(samples, variant, connections))
            chosen = [s for s in samples if (s.variant, s.connections) == (variant, connections)]
            latency = " / ".join(
                f"{statistics.median(getattr(s, name) for s in chosen) / 1000:.2f}"
                for name in ("p50_us", "p95_us", "p99_us")
            )
            lines.append(
                f"| {connections} | {variant} | {rounds} | {rate:,.0f} | {latency}"
                f" | {rate / base:.2f} |"
            )
    (results / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _rates(samples: list[Sample], variant: str, connections: int) -> list[float]:
    return [s.per_second for s in samples if (s.variant, s.connections) == (variant, connections)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
