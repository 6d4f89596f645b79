"""Mode `postgres` beside mode `redis`: one hot account, and 10,000, interleaved in one run.

`python -m bench.modes` starts its own durable servers, drives each mode with wrk, checks every
balance by verification after each run, and writes raw samples and a table to `bench/results/`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.infra.embedded import start_postgres, start_redis
from bench.throughput import (
    ACCOUNT,
    FOLDER,
    OPENING,
    Sample,
    _ask_postgres,
    _drive,
    _get,
    _line,
    _open_account,
    _run,
    _service,
    _wait_quiet,
)

ROUNDS = 3
CONNECTIONS = (64, 256)
SPREAD = 10_000
MODES = ("redis", "postgres")
_ACTIONS = {"redis": "automatic", "postgres": "force-postgres"}


def main() -> int:
    """Measure, check and write; ends with a sentence and 1 when a balance is not exact."""
    if shutil.which("wrk") is None:
        print("wrk is needed (Debian: apt-get install wrk)", file=sys.stderr)
        return 2
    samples: list[tuple[str, Sample]] = []
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
            "SUBBALANCE_CONSISTENCY_INTERVAL": "10m",
            "ENABLE_TEST_MODE": "true",
        }
        _run(environment, "app.bootstrap")
        url = stack.enter_context(_service(environment, folder))
        _open_account(url)
        _open_spread(url)
        for number in range(1, ROUNDS + 1):
            for mode in MODES[:: 1 if number % 2 else -1]:
                _put_in_mode(environment, url, mode)
                for accounts in ("hot", "spread"):
                    for connections in CONNECTIONS:
                        os.environ["BENCH_SPREAD"] = str(SPREAD if accounts == "spread" else 0)
                        sample = _drive(url, mode, connections, number)
                        _check(environment, url, mode, sample)
                        samples.append((accounts, sample))
                        print(f"{accounts:7}{_line(sample)}", flush=True)
    _write(samples)
    return 0


def _open_spread(url: str) -> None:
    """Open the accounts that a spread load uses, a thousand in a call."""
    for start in range(0, SPREAD, 1_000):
        accounts = [
            {"account_id": f"{ACCOUNT}{number}", "opening_balance": str(OPENING)}
            for number in range(start, start + 1_000)
        ]
        request = urllib.request.Request(
            f"{url}/test/accounts",
            json.dumps({"accounts": accounts}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=120).close()


def _put_in_mode(environment: dict[str, str], url: str, mode: str) -> None:
    """Let an operator's act choose, and wait until the instance has it."""
    subprocess.run(
        [sys.executable, "-m", "app.operate", _ACTIONS[mode], "--reason", "bench"],
        env=environment,
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    for _ in range(600):
        if json.loads(_get(f"{url}/health"))["mode"] == mode:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise SystemExit(f"mode {mode} does not come")


_rows_before = 0


def _check(environment: dict[str, str], url: str, mode: str, sample: Sample) -> None:
    """Verify everything, and compare the rows with what wrk counted."""
    global _rows_before
    _wait_quiet(url)
    told: dict[str, Any] = json.loads(_get(f"{url}/api/v1/verify"))
    statement = "SELECT count(*), 0 FROM journal_entries WHERE change_minor < 0"
    rows = int(_ask_postgres(environment["DATABASE_URL"], statement)[0])
    new, _rows_before = rows - _rows_before, rows
    facts = {
        "verified": told["status"] == "verified",
        "in its mode": told["mode"] == mode,
        "no refusals": sample.refused == 0 and sample.errors == 0,
        "every acceptance has its row": sample.accepted
        <= new
        <= sample.accepted + sample.connections,
    }
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise SystemExit(f"{sample}: wrong: {', '.join(wrong)}; {told}")


def _write(samples: list[tuple[str, Sample]]) -> None:
    """Write the raw samples and the table of medians with the ratio of the modes."""
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    raw = [{"accounts": accounts, **sample._asdict()} for accounts, sample in samples]
    (results / "modes.json").write_text(json.dumps(raw, indent=1) + "\n")
    lines = [
        "| accounts | conns | mode | accepted/s, each round | median | p50 / p99 ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for accounts in ("hot", "spread"):
        for connections in CONNECTIONS:
            base = 0.0
            for mode in MODES:
                chosen = [
                    sample
                    for kind, sample in samples
                    if (kind, sample.connections, sample.variant) == (accounts, connections, mode)
                ]
                rate = statistics.median(sample.per_second for sample in chosen)
                base = base or rate
                rounds = ", ".join(f"{sample.per_second:,.0f}" for sample in chosen)
                latency = " / ".join(
                    f"{statistics.median(getattr(s, name) for s in chosen) / 1000:.1f}"
                    for name in ("p50_us", "p99_us")
                )
                shown = "1" if accounts == "hot" else f"{SPREAD:,}"
                lines.append(
                    f"| {shown} | {connections} | {mode} | {rounds} | {rate:,.0f} | {latency}"
                    f" | {rate / base:.2f} |"
                )
    (results / "modes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
