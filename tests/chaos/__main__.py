"""`python -m tests.chaos`: faults under load on private servers, and proof that nothing is wrong.

Exits 0 when nothing was found, 1 with the details and the seed when something was.
"""

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.deployed import Deployment, run_deployed
from tests.chaos.report import Report, to_json
from tests.chaos.run import TIMINGS, Options, run_private
from tests.chaos.schedule import GAP_MEAN_S, Kind

SEED_MAX = 10**6
TERMINATED = 143


def main(arguments: list[str]) -> int:
    """Run one seed or several; 0 when all were clean."""
    options = _parser().parse_args(arguments)
    # So that what runs is ended in order, paused processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    first = secrets.randbelow(SEED_MAX) if options.seed is None else options.seed
    reports: list[Report] = []
    for seed in range(first, first + options.seeds):
        print(f"chaos: seed {seed}, {options.seconds:g} s", flush=True)
        reports.append(_run(seed, options))
        print(reports[-1].text(), flush=True)
        if options.verbose and reports[-1].is_clean:
            print("\n".join(reports[-1].incidents))
    if options.json:
        Path(options.json).write_bytes(to_json(reports))
    bad = [str(report.seed) for report in reports if not report.is_clean]
    print(f"chaos: {len(reports)} runs, " + (f"WRONG: seeds {', '.join(bad)}" if bad else "clean"))
    return 1 if bad else 0


def _run(seed: int, options: argparse.Namespace) -> Report:
    """One seed, on private servers or on those that were named."""
    chosen = Options(
        seconds=options.seconds,
        kinds=_kinds(options.faults),
        gap_s=options.gap,
        apis=options.apis,
        workers=options.workers,
        clients=options.clients,
        rate=options.rate,
        timing=options.timing,
    )
    if not options.url:
        return _run_in_folder(seed, chosen, keep=options.keep)
    if not options.database_url:
        raise SystemExit("--url needs --database-url: what was answered is compared with it")
    deployment = Deployment(
        tuple(options.url), options.database_url, options.redis_url, options.allow_destructive
    )
    return run_deployed(seed, chosen, deployment)


def _run_in_folder(seed: int, chosen: Options, *, keep: bool) -> Report:
    """Run in a folder of its own, which is kept when asked or when something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"sb-chaos-{seed}-"))
    folder.chmod(0o755)
    is_clean = False
    try:
        report = run_private(seed, chosen, folder)
        is_clean = report.is_clean
        (folder / "report.json").write_bytes(to_json(report))
        return report
    finally:
        if is_clean and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"chaos: logs of seed {seed} are in {folder}", flush=True)


def _kinds(filters: str) -> tuple[Kind, ...]:
    """The kinds whose names begin with one of the comma-separated words; `none` is none."""
    words = tuple(word.strip() for word in filters.split(",") if word.strip())
    if not words:
        return tuple(Kind)
    found = tuple(kind for kind in Kind if kind.startswith(words))
    if not found and words != ("none",):
        raise SystemExit(f"no fault begins with {filters}; there are: {', '.join(Kind)}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the load")
    parser.add_argument("--seed", type=int, help="the first seed; drawn when not given")
    parser.add_argument("--seeds", type=int, default=1, help="how many consecutive seeds")
    parser.add_argument("--faults", default="", help="only kinds that begin with these words")
    parser.add_argument("--gap", type=float, default=GAP_MEAN_S, help="seconds between faults")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, default=300.0, help="operations a second, about")
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timing", choices=("seed", *TIMINGS), default="seed")
    parser.add_argument("--json", help="write the reports to this file")
    parser.add_argument("--verbose", action="store_true", help="print every fault")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    there = parser.add_argument_group("a service that runs already, instead of private servers")
    there.add_argument("--url", action="append", default=[], help="an API; may be repeated")
    there.add_argument("--database-url", help="its PostgreSQL, for reading")
    there.add_argument("--redis-url", help="its Redis")
    there.add_argument(
        "--allow-destructive",
        action="store_true",
        help="empty its Redis, and delete keys and scripts in it, while it runs",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
