"""`subbalance post`, `transfer`, `balance`, `pending` and `find`."""

from decimal import Decimal

import click

from subbalance.answers import Type
from subbalance.command.context import (
    AMOUNT,
    ID,
    KEY,
    Context,
    command,
    entries,
    key_option,
    metadata_option,
    reference_option,
)

_COLUMNS = ("timestamp", "transaction_id", "type", "amount", "currency", "status", "reference")


@click.command()
@click.argument("account_id", type=ID)
@click.argument("direction", type=click.Choice(["debit", "credit"]))
@click.argument("amount", type=AMOUNT)
@key_option
@reference_option
@metadata_option
@command
def post(
    context: Context,
    account_id: str,
    direction: Type,
    amount: Decimal,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Debit or credit an account."""
    done = context.ledger.post(
        account_id, direction, amount, key=key, reference=reference, metadata=entries(metadata)
    )
    context.output.show(done)


@click.command()
@click.argument("debit_account_id", type=ID)
@click.argument("credit_account_id", type=ID)
@click.argument("amount", type=AMOUNT)
@key_option
@reference_option
@metadata_option
@command
def transfer(
    context: Context,
    debit_account_id: str,
    credit_account_id: str,
    amount: Decimal,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Move an amount from one account to another."""
    done = context.ledger.transfer(
        debit_account_id,
        credit_account_id,
        amount,
        key=key,
        reference=reference,
        metadata=entries(metadata),
    )
    context.output.show(done)


@click.command()
@click.argument("account_id", type=ID)
@command
def balance(context: Context, account_id: str) -> None:
    """Show a balance, exact at one instant."""
    context.output.show(context.ledger.get_balance(account_id))


@click.command()
@click.argument("account_id", type=ID)
@command
def pending(context: Context, account_id: str) -> None:
    """List what is accepted and not settled."""
    context.output.list(context.ledger.list_pending(account_id), _COLUMNS)


@click.command()
@click.argument("key", type=KEY)
@command
def find(context: Context, key: str) -> None:
    """Show what was accepted under a key: what became of an unclear `post`."""
    context.output.show(context.ledger.find_transaction(key))
