"""`python -m tests.drills <drill>`: holds one drill on private servers, writes its report.

Ends with 1 when the drill's verdict is Failed. It touches no server it did not start.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from app.infra.child_process import EmbeddedServerError
from tests.cluster import ClusterError
from tests.drills.failure_report import summary_lines, write_failure_report
from tests.drills.load import LoadError
from tests.drills.recovery_report import (
    meets_aims,
    summary_table,
    verdict_line,
    write_recovery,
)
from tests.drills.recovery_times import measure_first_failures, measure_repeated_failures
from tests.drills.redis_failure import CutOff, Killed, Outage, hold_redis_failure
from tests.drills.restore import hold_restore
from tests.drills.restore_report import summary_lines as restore_summary
from tests.drills.restore_report import write_restore_report
from tests.drills.rolling import hold_rolling_restart, write_rolling_report
from tests.drills.rolling import summary_lines as rolling_summary
from tests.drills.service import DrillError, Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the drill that is named; 0 when it passed."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ClusterError, DrillError, LoadError, EmbeddedServerError) as error:
        print(f"Failed: the drill could not be held: {error}", file=sys.stderr)
        return 1


def _redis_failure(outage: Callable[[], Outage]) -> Callable[[argparse.Namespace], int]:
    def hold(arguments: argparse.Namespace) -> int:
        options = _options(arguments)
        print(f"seed {options.seed}, timeline x {arguments.scale}", flush=True)
        result = asyncio.run(hold_redis_failure(outage(), options, arguments.scale))
        path = write_failure_report(options.reports, result)
        return _tell(path, summary_lines(result), result.passed)

    return hold


def _restore(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    print(f"seed {options.seed}", flush=True)
    result = asyncio.run(hold_restore(options))
    path = write_restore_report(options.reports, result)
    return _tell(path, restore_summary(result), result.passed)


def _rolling(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    result = asyncio.run(hold_rolling_restart(options, arguments.requests, arguments.rounds))
    path = write_rolling_report(options.reports, result)
    return _tell(path, rolling_summary(result), result.passed)


def _recovery_times(arguments: argparse.Namespace) -> int:
    """Measure both series; the aims are for the first failures, whose Redis had been trusted."""
    options = _options(arguments)
    print(f"seed {options.seed}", flush=True)
    first = asyncio.run(measure_first_failures(options, arguments.rounds))
    series = [first]
    if arguments.repeated:
        series.append(asyncio.run(measure_repeated_failures(options, arguments.repeated)))
    load_text = f"{options.connections} connections, {options.per_second} requests/s at most"
    load_text += f", {options.instances} API processes, one worker, seed {options.seed}"
    path = write_recovery(arguments.results, series, load_text)
    lines = [line for one in series for line in (verdict_line(one), *summary_table(one))]
    lines.append(f"aims met by first failures: {'yes' if meets_aims(first) else 'no'}")
    return _tell(path, lines, all(one.passed for one in series))


def _tell(path: Path, lines: Sequence[str], passed: bool) -> int:
    print("\n".join([*lines, f"report: {path}"]), flush=True)
    return 0 if passed else 1


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        reports=arguments.reports,
        instances=arguments.instances,
        connections=arguments.connections,
        per_second=arguments.per_second,
        seed=arguments.seed,
        environment=dict(arguments.set),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    drills = parser.add_subparsers(required=True, metavar="drill")
    default = Options()
    for name, outage, text in (
        ("redis-failure", CutOff, "the way to Redis is cut at T+2 and restored at T+3"),
        ("redis-failure-real", Killed, "Redis is killed at T+2 and started again at T+3"),
    ):
        drill = _drill(drills, name, text, default)
        drill.add_argument("--scale", type=float, default=1.0, help="shorten the timeline")
        drill.set_defaults(run=_redis_failure(outage))
    restore = _drill(drills, "restore", "backups are restored and the service runs", default)
    restore.set_defaults(run=_restore)
    rolling = _drill(drills, "rolling-restart", "processes are replaced under load", default)
    rolling.add_argument("--requests", type=int, default=100_000, help="to be sent at least")
    rolling.add_argument("--rounds", type=int, default=2, help="restarts at least")
    rolling.set_defaults(run=_rolling)
    recovery = _drill(drills, "recovery-times", "how long a dead Redis is felt", default)
    recovery.add_argument("--rounds", type=int, default=20, help="first failures to measure")
    recovery.add_argument("--repeated", type=int, default=4, help="failures right after another")
    recovery.add_argument("--results", type=Path, default=Path("bench/results"), help="folder")
    recovery.set_defaults(run=_recovery_times)
    return parser


def _drill(
    drills: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    default: Options,
) -> argparse.ArgumentParser:
    drill = drills.add_parser(name, help=text, description=text)
    drill.add_argument("--reports", type=Path, default=default.reports, help="folder")
    drill.add_argument("--instances", type=int, default=default.instances, help="API processes")
    drill.add_argument("--connections", type=int, default=default.connections)
    drill.add_argument("--per-second", type=int, default=default.per_second)
    drill.add_argument("--seed", type=int, default=default.seed)
    drill.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the service, may be repeated",
    )  # fmt: skip
    return drill


def setting(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
