"""`subbalance holds`: place, capture, release, show, list."""

from decimal import Decimal

import click

from subbalance.answers import HoldStatus
from subbalance.command.context import (
    AMOUNT,
    ID,
    Context,
    command,
    dry_run_option,
    entries,
    key_option,
    metadata_option,
    reference_option,
)

_COLUMNS = ("hold_id", "status", "amount", "captured", "released", "remaining", "expires_at")
_STATUS = click.Choice(["HELD", "CAPTURED", "RELEASED", "EXPIRED"], case_sensitive=False)


@click.group()
def holds() -> None:
    """Set amounts aside, capture and release them."""


@holds.command("place")
@click.argument("account_id", type=ID)
@click.argument("amount", type=AMOUNT)
@click.option("--credit", "credit_account_id", type=ID, help="Who gets what is captured.")
@click.option("--expires-in", "expires_in_s", type=click.IntRange(1), help="In seconds.")
@key_option
@reference_option
@metadata_option
@dry_run_option
@command
def place(
    context: Context,
    account_id: str,
    amount: Decimal,
    credit_account_id: str | None,
    expires_in_s: int | None,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
    dry_run: bool,
) -> None:
    """Set an amount aside."""
    send = context.ledger.foresee_place_hold if dry_run else context.ledger.place_hold
    placed = send(
        account_id,
        amount,
        key=key,
        credit_account_id=credit_account_id,
        expires_in_s=expires_in_s,
        reference=reference,
        metadata=entries(metadata),
    )
    context.output.show(placed)


@holds.command("capture")
@click.argument("hold_id", type=ID)
@click.argument("amount", type=AMOUNT, required=False)
@click.option("--final", is_flag=True, help="Release what is left.")
@key_option
@dry_run_option
@command
def capture(
    context: Context,
    hold_id: str,
    amount: Decimal | None,
    final: bool,
    key: str | None,
    dry_run: bool,
) -> None:
    """Capture an amount, or all that is left."""
    send = context.ledger.foresee_capture_hold if dry_run else context.ledger.capture_hold
    context.output.show(send(hold_id, amount, final=final or None, key=key))


@holds.command("release")
@click.argument("hold_id", type=ID)
@key_option
@dry_run_option
@command
def release(context: Context, hold_id: str, key: str | None, dry_run: bool) -> None:
    """Give back all that is held still."""
    send = context.ledger.foresee_release_hold if dry_run else context.ledger.release_hold
    context.output.show(send(hold_id, key=key))


@holds.command("show")
@click.argument("hold_id", type=ID)
@command
def show(context: Context, hold_id: str) -> None:
    """Show a hold as it is now."""
    context.output.show(context.ledger.get_hold(hold_id))


@holds.command("list")
@click.argument("account_id", type=ID)
@click.option("--status", type=_STATUS)
@command
def list_holds(context: Context, account_id: str, status: HoldStatus | None) -> None:
    """List an account's holds in the order they were placed."""
    context.output.list(context.ledger.list_holds(account_id, status=status), _COLUMNS)
