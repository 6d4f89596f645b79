"""`python -m bench.growth <what>`: one growth experiment, on private servers."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench.compare.wrk import INSTALL, has_wrk
from bench.growth.accounts import accounts
from bench.growth.backlog import backlog
from bench.growth.curve import RESULTS, Report
from bench.growth.history import history, history_random
from bench.growth.hydration import hydration
from bench.growth.layouts import layouts
from bench.growth.processes import processes
from bench.growth.settlement import settlement
from bench.growth.sizes import sizes
from bench.growth.stand import Options, Turns

RUNS: dict[str, Callable[[Options], Report]] = {
    "accounts": accounts,
    "backlog": backlog,
    "history": history,
    "history-random": history_random,
    "hydration": hydration,
    "layouts": layouts,
    "processes": processes,
    "sizes": sizes,
    "settlement": settlement,
}


def main(arguments: list[str]) -> int:
    """Run what is asked for; a book that is not exact ends it with 1."""
    asked = _parser().parse_args(arguments)
    if not has_wrk():
        print(INSTALL, file=sys.stderr)
        return 2
    options = Options(
        folder=asked.folder / asked.what,
        results=asked.results,
        turns=Turns(asked.lock),
        keep=asked.keep,
        reuse=asked.reuse,
        seconds=asked.seconds,
        rounds=asked.rounds,
        largest=asked.largest,
    )
    print(RUNS[asked.what](options).write(asked.results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a sample")
    parser.add_argument("--rounds", type=int, default=3, help="samples of every step")
    parser.add_argument("--largest", type=int, default=10**9, help="leave larger steps out")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/growth"), help="servers' files")
    parser.add_argument("--keep", action="store_true", help="leave the servers' files there")
    parser.add_argument("--reuse", action="store_true", help="go on with files that were kept")
    parser.add_argument("--lock", type=Path, help="a file that runs of other kinds lock in turn")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are written")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
