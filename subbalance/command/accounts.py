"""`subbalance accounts`: list, open, show, change, freeze, close."""

from decimal import Decimal
from typing import Any

import click

from subbalance.answers import Frozen
from subbalance.command.context import (
    AMOUNT,
    ID,
    Context,
    command,
    entries,
    metadata_option,
)

_COLUMNS = ("account_id", "currency", "credit_limit", "frozen", "closed", "created_at")
_FROZEN = click.Choice(["none", "debit", "credit", "all"])
_if_match_option = click.option("--if-match", help="Only if the account still has this ETag.")


@click.group()
def accounts() -> None:
    """Open, show, change and list accounts."""


@accounts.command("list")
@click.option("--currency")
@click.option("--frozen", type=_FROZEN)
@click.option("--closed/--open", default=None)
@metadata_option
@command
def list_accounts(
    context: Context,
    currency: str | None,
    frozen: Frozen | None,
    closed: bool | None,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """List accounts in the order they were opened."""
    found = context.ledger.list_accounts(
        currency=currency, frozen=frozen, closed=closed, metadata=entries(metadata)
    )
    context.output.list(found, _COLUMNS)


@accounts.command("open")
@click.argument("account_id", type=ID)
@click.option("--currency", help="ISO 4217; the service's own where it is left out.")
@click.option("--opening-balance", type=AMOUNT, default="0")
@click.option("--credit-limit", type=AMOUNT, default="0")
@metadata_option
@command
def open_account(
    context: Context,
    account_id: str,
    currency: str | None,
    opening_balance: Decimal,
    credit_limit: Decimal,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Open an account; the same again changes nothing."""
    opened = context.ledger.open_account(
        account_id,
        currency=currency,
        opening_balance=opening_balance,
        credit_limit=credit_limit,
        metadata=entries(metadata),
    )
    context.output.show(opened)


@accounts.command("show")
@click.argument("account_id", type=ID)
@command
def show_account(context: Context, account_id: str) -> None:
    """Show an account's configuration."""
    context.output.show(context.ledger.get_account(account_id))


@accounts.command("change")
@click.argument("account_id", type=ID)
@click.option("--credit-limit", type=AMOUNT)
@metadata_option
@_if_match_option
@command
def change_account(
    context: Context,
    account_id: str,
    credit_limit: Decimal | None,
    metadata: tuple[tuple[str, str], ...],
    if_match: str | None,
) -> None:
    """Change an account's limit or its metadata, which take the place of all there are."""
    wanted: dict[str, Any] = {"credit_limit": credit_limit, "metadata": entries(metadata)}
    context.output.show(context.ledger.change_account(account_id, **wanted, if_match=if_match))


@accounts.command("freeze")
@click.argument("account_id", type=ID)
@click.argument("what", type=_FROZEN, default="all")
@_if_match_option
@command
def freeze_account(context: Context, account_id: str, what: Frozen, if_match: str | None) -> None:
    """Take no more debits, credits or anything (all); `none` takes them again."""
    context.output.show(context.ledger.freeze_account(account_id, what, if_match=if_match))


@accounts.command("close")
@click.argument("account_id", type=ID)
@_if_match_option
@command
def close_account(context: Context, account_id: str, if_match: str | None) -> None:
    """Close an account for ever, at a balance of zero."""
    context.output.show(context.ledger.close_account(account_id, if_match=if_match))
