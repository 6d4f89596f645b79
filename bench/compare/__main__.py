"""`python -m bench.compare`: this service beside its rivals, in one run, in one table.

Ends with 1 and a sentence when any balance is not exact, with 2 when it cannot measure.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.compare.plan import ACCOUNTS, CONNECTIONS, SECTIONS, Selection
from bench.compare.report import RESULTS
from bench.compare.runs import RUNS, Options, table
from bench.compare.wrk import INSTALL, has_wrk

PARTS = (*SECTIONS, "ceilings", "lonely")
ROUNDS, SECONDS = 3, 2.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 1.0
_TERMINATED = 143


def main(arguments: Sequence[str]) -> int:
    """Measure what is selected, write the results, and show where they are."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = set(given.selection) - {*PARTS, *RUNS}
    if unknown or (len(given.selection) > 1 and set(given.selection) & set(RUNS)):
        parser.error(f"choose parts of {', '.join(PARTS)}, or one of {', '.join(RUNS)}")
    if not has_wrk():
        print(INSTALL, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.ERROR)
    # Whoever ends a run ends its servers and its files with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    (name,) = given.selection if len(given.selection) == 1 else [""]
    print(RUNS.get(name, table)(_options(given)))
    return 0


def _options(given: argparse.Namespace) -> Options:
    parts = tuple(given.selection) or PARTS
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    seconds = QUICK_SECONDS if given.quick else SECONDS
    return Options(
        parts=parts,
        selection=Selection(
            tuple(part for part in SECTIONS if part in parts), given.accounts, given.connections
        ),
        rounds=given.rounds or rounds,
        seconds=given.seconds or seconds,
        results=given.results,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    told = f"of the table: {', '.join(PARTS)}; or a run of its own: {', '.join(RUNS)}"
    parser.add_argument("selection", nargs="*", metavar="part", help=told)
    parser.add_argument("--accounts", type=int, nargs="+", choices=ACCOUNTS, default=ACCOUNTS)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one sample; wrk counts whole ones")
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
