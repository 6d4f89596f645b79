"""`subbalance post`, `reverse`, `transfer`, `balance`, `statement`, `pending` and `find`."""

from decimal import Decimal

import click

from subbalance.answers import Basis, Type
from subbalance.command.context import (
    AMOUNT,
    ID,
    INSTANT,
    KEY,
    Context,
    command,
    dry_run_option,
    entries,
    from_option,
    key_option,
    metadata_option,
    reference_option,
    to_option,
)
from subbalance.errors import NotFound
from subbalance.money_calls import Expect

_COLUMNS = ("timestamp", "transaction_id", "type", "amount", "currency", "status", "reference")
_TRANSFER = ("transfer_id", "debit_account_id", "credit_account_id", "amount", "status")
_STATEMENT = ("booked_at", "transaction_id", "type", "amount", "balance", "status", "reference")


@click.command()
@click.argument("account_id", type=ID)
@click.argument("direction", type=click.Choice(["debit", "credit"]))
@click.argument("amount", type=AMOUNT)
@click.option("--expect-available", type=AMOUNT, help="Only if at least this is available.")
@click.option("--expect-version", type=click.IntRange(0), help="Only at this balance's version.")
@click.option("--effective-at", type=INSTANT, help="When it counts, if that is earlier.")
@key_option
@reference_option
@metadata_option
@dry_run_option
@command
def post(
    context: Context,
    account_id: str,
    direction: Type,
    amount: Decimal,
    expect_available: Decimal | None,
    expect_version: int | None,
    effective_at: str | None,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
    dry_run: bool,
) -> None:
    """Debit or credit an account."""
    is_expecting = expect_available is not None or expect_version is not None
    expect = Expect(available_at_least=expect_available, version=expect_version)
    send = context.ledger.foresee_post if dry_run else context.ledger.post
    done = send(
        account_id,
        direction,
        amount,
        key=key,
        reference=reference,
        metadata=entries(metadata),
        expect=expect if is_expecting else None,
        effective_at=effective_at,
    )
    context.output.show(done)


@click.command()
@click.argument("transaction_id", type=ID)
@key_option
@reference_option
@metadata_option
@dry_run_option
@command
def reverse(
    context: Context,
    transaction_id: str,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
    dry_run: bool,
) -> None:
    """Take a transaction back by one of the same amount the other way, once."""
    ledger = context.ledger
    send = ledger.foresee_reversal if dry_run else ledger.reverse_transaction
    done = send(transaction_id, key=key, reference=reference, metadata=entries(metadata))
    context.output.show(done)


@click.command()
@click.argument("debit_account_id", type=ID)
@click.argument("credit_account_id", type=ID)
@click.argument("amount", type=AMOUNT)
@key_option
@reference_option
@metadata_option
@dry_run_option
@command
def transfer(
    context: Context,
    debit_account_id: str,
    credit_account_id: str,
    amount: Decimal,
    key: str | None,
    reference: str | None,
    metadata: tuple[tuple[str, str], ...],
    dry_run: bool,
) -> None:
    """Move an amount from one account to another."""
    send = context.ledger.foresee_transfer if dry_run else context.ledger.transfer
    done = send(
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
@click.option("--at", type=INSTANT, help="As of this instant.")
@click.option("--by", type=click.Choice(["booked", "effective"]), help="With --at.")
@command
def balance(context: Context, account_id: str, at: str | None, by: Basis | None) -> None:
    """Show a balance, exact at one instant."""
    if at is None and by is not None:
        raise click.UsageError("--by goes with --at")
    if at is None:
        context.output.show(context.ledger.get_balance(account_id))
    else:
        context.output.show(context.ledger.get_balance_at(account_id, at, by=by))


@click.command()
@click.argument("account_id", type=ID)
@from_option
@to_option
@command
def statement(context: Context, account_id: str, start: str | None, end: str | None) -> None:
    """List what moved an account, in the order it was booked, with running balances."""
    rows = context.ledger.list_statement(account_id, start=start, end=end, page_items=1_000)
    context.output.list(rows, _STATEMENT)


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
    """Show what was accepted under a key: what became of an unclear post or transfer."""
    try:
        context.output.show(context.ledger.find_transaction(key))
    except NotFound:
        try:
            transfers = context.ledger.find_group(key).transfers
        except NotFound as error:
            detail = "Nothing was accepted under this key."
            raise NotFound("transaction_not_found", detail, http_status=404) from error
        context.output.list(transfers, _TRANSFER)
