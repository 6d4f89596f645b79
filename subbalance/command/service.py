"""`subbalance health` and `verify`."""

import click

from subbalance.command.context import Context, command
from subbalance.command.output import REFUSED, UNAVAILABLE


@click.command()
@click.option("--details", is_flag=True, help="Every component.")
@command
def health(context: Context, details: bool) -> None:
    """Show how the service is; exit code 3 when it decides nothing."""
    told = context.ledger.health_details() if details else context.ledger.health()
    context.output.show(told)
    if told.status == "unavailable":
        raise SystemExit(UNAVAILABLE)


@click.command()
@command
def verify(context: Context) -> None:
    """Prove that the books are right; exit code 1 when something differs."""
    verified = context.ledger.verify()
    context.output.show(verified)
    if verified.status != "verified":
        raise SystemExit(REFUSED)
