"""The `subbalance` command: its options and its commands."""

from importlib.metadata import PackageNotFoundError, version

import click

from subbalance import limits
from subbalance.command import exporting, importing
from subbalance.command.accounts import accounts
from subbalance.command.context import Context
from subbalance.command.events import events
from subbalance.command.holds import holds
from subbalance.command.money import balance, find, pending, post, reverse, statement, transfer
from subbalance.command.output import Output
from subbalance.command.service import health, verify

_EPILOG = (
    "Exit codes: 0 done, 1 refused or not as it should be, 2 wrong use (nothing was sent), "
    "3 unavailable, or the outcome is unknown."
)


def _version() -> str:
    try:
        return version("sub-balance")
    except PackageNotFoundError:
        return "of a checkout"


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="LEDGER_URL",
    default="http://localhost:8082",
    show_default=True,
    show_envvar=True,
    help="Where the ledger listens.",
)
@click.option("--json", "is_json", is_flag=True, help="JSON, a line for each thing.")
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    default=limits.DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest a call may take, with all its attempts.",
)
@click.version_option(_version())
@click.pass_context
def main(context: click.Context, url: str, is_json: bool, deadline_s: float) -> None:
    """Work with a Sub-Balance ledger."""
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url begins with http:// or https://, not {url!r}")
    context.obj = Context(url, deadline_s, Output(is_json=is_json))
    context.call_on_close(context.obj.close)


for each in (
    accounts,
    balance,
    events,
    exporting.export,
    find,
    health,
    holds,
    importing.import_file,
    pending,
    post,
    reverse,
    statement,
    transfer,
    verify,
):
    main.add_command(each)
