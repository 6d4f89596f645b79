"""Drives an HTTP server with wrk, and reads what it counted."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.compare.bodies import content_type, path_of, write_bodies
from bench.compare.samples import Cell, Figures

SCRIPT = Path(__file__).resolve().parents[1] / "wrk_requests.lua"
INSTALL = "wrk is needed (Debian: apt-get install wrk)"
_THREADS_MAX = 2
_REQUEST_TIMEOUT_S = 20
_END_TIMEOUT_S = 60


def has_wrk() -> bool:
    """Tell whether wrk is there."""
    return shutil.which("wrk") is not None


def wrk_version() -> str:
    """What wrk says it is; it says so with its usage and an error code."""
    told = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False, timeout=10)
    return " ".join(told.stdout.split()[:2])


def drive(folder: Path, url: str, cell: Cell, seconds: float) -> Figures:
    """Keep every connection of a cell busy for a while; wrk counts whole seconds."""
    threads = min(_THREADS_MAX, cell.connections)
    whole = max(1, round(seconds))
    output = subprocess.run(
        ["wrk", f"-t{threads}", f"-c{cell.connections}", f"-d{whole}s",
         "--timeout", f"{_REQUEST_TIMEOUT_S}s", "-s", str(SCRIPT), f"{url}{path_of(cell)}"],
        env={"PATH": os.environ["PATH"], "BENCH_BODIES": str(write_bodies(folder, cell)),
             "BENCH_TYPE": content_type(cell), "BENCH_KEYS": cell.keys,
             "BENCH_RUN": f"{time.time_ns() // 1_000_000:011x}", "BENCH_THREADS": str(threads)},
        capture_output=True, text=True, check=True, timeout=whole + _END_TIMEOUT_S,
    ).stdout  # fmt: skip
    return read_figures(output)


def read_figures(output: str) -> Figures:
    """Find the line the script wrote at the end of wrk's own report."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return Figures(*(int(part) for part in line.split()[1:]))


def possible_rows(cell: Cell, figures: Figures) -> range:
    """How many rows a run may have left: wrk ends without reading each connection's last answer."""
    return range(
        figures.accepted * cell.rows, (figures.accepted + cell.connections) * cell.rows + 1
    )
