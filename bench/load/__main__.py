"""`python -m bench.load <command>`: the specification's TPS tests, and loads of any rate.

The running service is used when one answers at 127.0.0.1:$PORT, else a private one is started. Ends
with 1 when a balance is not exact or the success rate is Poor.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from app.infra.child_process import EmbeddedServerError
from bench.load.accounts import MULTI, OPENING_MINOR, SINGLE, provide, reset, status_lines
from bench.load.generator import GeneratorError
from bench.load.knee import Bounds, Search
from bench.load.ledger import Ledger, LedgerRefused
from bench.load.measure import Plan
from bench.load.mix import DUPLICATES_MAX
from bench.load.progress import Progress
from bench.load.report import LoadResult, step_table, summary_lines, write_load_report
from bench.load.scenarios import TESTS, Scenario, Settings, hold_scenario, hold_test
from bench.load.service import Place, Service, ServiceError, open_service
from tests.cluster import ClusterError
from tests.drills.__main__ import setting
from tests.drills.service import DrillError

_INTERRUPTED = 130
_USAGE = 2
_ITEMS_MAX = 8_000
_ACCOUNTS_MAX = 1_000_000
_ONE_PROCESS_PER_SECOND = 12_000
_REPORTS = Path("reports")
_ALL = (SINGLE, *MULTI)
_FAILURES = (
    ClusterError, DrillError, EmbeddedServerError, GeneratorError, LedgerRefused, ServiceError,
)  # fmt: skip
Arguments = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that is named; 0 when it went well."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "ramp" in options and options.ramp >= options.seconds:
        parser.error("--ramp is a part of --seconds and must be shorter")
    run: Callable[[Arguments], Awaitable[int]] = options.run
    try:
        return asyncio.run(_run(run, options))
    except KeyboardInterrupt:
        print("\ninterrupted: everything that was started has ended, no report", file=sys.stderr)
        return _INTERRUPTED
    except _FAILURES as error:
        print(f"Failed: the load could not be put on: {error}", file=sys.stderr)
        return 1


async def _run(run: Callable[[Arguments], Awaitable[int]], options: Arguments) -> int:
    return await run(options)


def _test(name: str) -> Callable[[Arguments], Awaitable[int]]:
    async def hold(arguments: Arguments) -> int:
        test = TESTS[name]
        if arguments.seconds:
            test = test._replace(duration_s=arguments.seconds)
        result = await hold_test(test, _settings(arguments, 1), Progress())
        return _tell(result, arguments.output, raw=False)

    return hold


async def _scenario(arguments: Arguments) -> int:
    highest = max(arguments.rates) if not arguments.knee else arguments.to
    processes = arguments.processes or (1 if highest <= _ONE_PROCESS_PER_SECOND else 2)
    scenario = Scenario(
        rates=() if arguments.knee else tuple(arguments.rates),
        duration_s=arguments.seconds,
        ramp_s=arguments.ramp,
        account_count=arguments.accounts,
        plan=Plan(
            (),
            credit_share=arguments.credit_share,
            hot_share=arguments.hot_share,
            duplicates=arguments.duplicates,
            batch=arguments.batch,
            random_keys=arguments.random_keys,
            connections=arguments.connections,
            backlog_max=arguments.backlog,
            timeout_s=arguments.timeout,
        ),
        confirm_s=arguments.confirm_seconds or arguments.seconds,
        search=_search(arguments) if arguments.knee else None,
        bounds=Bounds(arguments.p99_ms, arguments.error_share, arguments.achieved_share),
    )
    result = await hold_scenario(scenario, _settings(arguments, processes), Progress())
    return _tell(result, arguments.output, raw=True)


def _search(arguments: Arguments) -> Search:
    return Search(arguments.first, arguments.to, arguments.growth, arguments.refinements)


def _settings(arguments: Arguments, processes: int) -> Settings:
    return Settings(
        place=_place(arguments),
        output=arguments.output,
        processes=processes,
        ceiling=not arguments.no_ceiling,
    )


def _tell(result: LoadResult, folder: Path, *, raw: bool) -> int:
    path = write_load_report(folder, result, raw=raw)
    lines = ["", *step_table(result.steps), "", *summary_lines(result), f"report: {path}"]
    print("\n".join(lines), flush=True)
    return 0 if result.passed else 1


def _on_accounts(
    act: Callable[[Ledger, Sequence[str]], Awaitable[object]], account_ids: Sequence[str]
) -> Callable[[Arguments], Awaitable[int]]:
    """A command on accounts of the running service that shows them afterwards."""

    async def run(arguments: Arguments) -> int:
        async with open_service(_place(arguments), print) as service:
            _require_running(service)
            ledger = Ledger(service.urls[0])
            try:
                await act(ledger, account_ids)
                print("\n".join(await status_lines(ledger, account_ids)))
            finally:
                await ledger.close()
        return 0

    return run


def _require_running(service: Service) -> None:
    if service.is_private:
        raise ServiceError("no service runs here, and a private one would be gone at once")


async def _provide(ledger: Ledger, account_ids: Sequence[str]) -> None:
    await provide(ledger, account_ids, private=False, least_minor=OPENING_MINOR)


async def _nothing(_ledger: Ledger, _account_ids: Sequence[str]) -> None:
    """Change nothing: the accounts are only shown."""


async def _clean(arguments: Arguments) -> int:
    """Reset the accounts of all tests and remove the tests' reports, nothing else."""
    removed = 0
    for test in TESTS.values():
        for path in arguments.output.glob(f"{test.file_name}_????????_??????.md"):
            path.unlink()
            removed += 1
    print(f"{removed} reports removed from {arguments.output}/")
    return await _on_accounts(reset, _ALL)(arguments)


def _place(arguments: Arguments) -> Place:
    return Place(
        url=arguments.url,
        private=arguments.private,
        instances=arguments.instances,
        settings=dict(arguments.set),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, test in TESTS.items():
        text = f"{test.title}: {_rates(test.rates)} TPS"
        _seconds(_command(commands, name, text, _test(name)))
    simple = _test("test-multi")
    _seconds(_command(commands, "test-multi-simple", "the same as test-multi", simple))
    _command(commands, "test-setup", f"open or top up {SINGLE}", _on_accounts(_provide, [SINGLE]))
    _command(commands, "test-status", f"show {SINGLE}", _on_accounts(_nothing, [SINGLE]))
    _command(commands, "test-reset", f"reset {SINGLE}", _on_accounts(reset, [SINGLE]))
    _command(commands, "test-clean", "reset all test accounts, remove the reports", _clean)
    _command(commands, "setup-multi", "open or top up MULTI001..005", _on_accounts(_provide, MULTI))
    _command(commands, "status-multi", "show MULTI001..005", _on_accounts(_nothing, MULTI))
    _command(commands, "reset-multi", "reset MULTI001..005", _on_accounts(reset, MULTI))
    _scenario_options(_command(commands, "scenario", "a load of any rate, or the knee", _scenario))
    return parser


def _seconds(command: argparse.ArgumentParser) -> None:
    text = "each rate, instead of the test's own"
    command.add_argument("--seconds", type=_number(1, 3_600), default=0.0, help=text)


def _rates(rates: Sequence[int]) -> str:
    return ", ".join(str(rate) for rate in rates)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[[Arguments], Awaitable[int]],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("--url", default="", help="a running service, instead of 127.0.0.1:$PORT")
    command.add_argument("--private", action="store_true", help="start a private service anyway")
    command.add_argument(
        "--instances", type=_whole(1, 16), default=1, help="API processes, private"
    )
    command.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the private service, may be repeated",
    )  # fmt: skip
    command.add_argument("--output", type=Path, default=_REPORTS, help="folder of the reports")
    command.add_argument("--no-ceiling", action="store_true", help="skip the generator's ceiling")
    return command


def _scenario_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--rates", type=_numbers, default=[1_000.0], help="transactions per second, with commas")
    add("--seconds", type=_number(0.5, 7_200), default=10.0, help="each rate, its ramp included")
    add("--ramp", type=_number(0, 3_600), default=0.0, help="seconds from zero to the rate")
    add("--accounts", type=_whole(1, _ACCOUNTS_MAX), default=1)
    add(
        "--hot-share", type=_number(0, 1), default=0.0, help="of the first account; 0: equal shares"
    )
    add("--credit-share", type=_number(0, 1), default=0.5)
    add("--duplicates", type=_number(0, DUPLICATES_MAX), default=0.0, help="share sent again")
    add("--batch", type=_whole(0, _ITEMS_MAX), default=0, help="transactions in a request; 0: none")
    add("--random-keys", action="store_true", help="idempotency keys in no order")
    add("--processes", type=_whole(0, 16), default=0, help="of the generator; 0: as the rate needs")
    add("--connections", type=_whole(1, 20_000), default=128, help="of all processes together")
    add("--backlog", type=_whole(0, 1_000_000), default=20_000, help="due and waiting, per process")
    add("--timeout", type=_number(1, 120), default=20.0, help="seconds to wait for an answer")
    search, bounds = Search(), Bounds()
    add("--knee", action="store_true", help="look for the highest rate within the bounds")
    add("--first", type=_number(1, 1e6), default=search.first, help="first rate of the search")
    add("--to", type=_number(1, 1e6), default=search.most, help="highest rate of the search")
    add("--growth", type=_number(1.05, 10), default=search.growth, help="from rate to rate")
    add("--refinements", type=_whole(0, 10), default=search.refinements, help="halvings at the end")
    add("--confirm-seconds", type=_number(0, 7_200), default=0.0, help="of the knee; 0: --seconds")
    add("--p99-ms", type=_number(0.1, 1e6), default=bounds.p99_ms)
    add("--error-share", type=_number(0, 1), default=bounds.error_share)
    add("--achieved-share", type=_number(0, 1), default=bounds.achieved_share)


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}")
        return value

    return number


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}")
        return value

    return whole


def _numbers(text: str) -> list[float]:
    return [_number(0.1, 1e6)(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
