"""`subbalance export`: accounts, balances and transactions as CSV."""

import csv
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO, Any

import click
import msgspec

from subbalance import limits
from subbalance.answers import Account, Balance, Transaction
from subbalance.command.context import ID, Context, command, from_option, to_option
from subbalance.command.output import cell

_ACCOUNT = (
    "account_id",
    "currency",
    "credit_limit",
    "frozen",
    "closed",
    "version",
    "created_at",
    "updated_at",
    "metadata",
)
_TRANSACTION = tuple(name for name in Transaction.__struct_fields__ if name != "replayed")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_BALANCE = Balance.__struct_fields__
_out_option = click.option(
    "--out", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="Else stdout."
)


@click.group()
def export() -> None:
    """Write accounts, balances or transactions as CSV."""


@export.command("accounts")
@click.option("--currency")
@_out_option
@command
def export_accounts(context: Context, currency: str | None, out: IO[str]) -> None:
    """Write all accounts in the order they were opened."""
    _write(out, _ACCOUNT, context.ledger.list_accounts(currency=currency, page_items=1_000))


@export.command("balances")
@click.option("--currency")
@_out_option
@command
def export_balances(context: Context, currency: str | None, out: IO[str]) -> None:
    """Write all balances; each is exact at its own instant, not all at one."""
    accounts = context.ledger.list_accounts(currency=currency, page_items=1_000)
    _write(out, _BALANCE, _balances(context, accounts))


@export.command("transactions")
@click.option("--account", "account_id", type=ID)
@click.option("--reference")
@from_option
@to_option
@_out_option
@command
def export_transactions(
    context: Context,
    account_id: str | None,
    reference: str | None,
    start: str | None,
    end: str | None,
    out: IO[str],
) -> None:
    """Write the transactions of an account or with a reference, the newest first."""
    if account_id is None and reference is None:
        raise click.UsageError("--account or --reference is needed")
    found = context.ledger.search_transactions(
        account_id=account_id, reference=reference, start=start, end=end, page_items=1_000
    )
    _write(out, _TRANSACTION, found)


def _balances(context: Context, accounts: Iterator[Account]) -> Iterator[Balance]:
    """Read balances, several at once, in the accounts' order."""
    at_once = limits.IMPORT_AT_ONCE
    with ThreadPoolExecutor(at_once) as pool:
        while chunk := list(islice(accounts, at_once * 16)):
            yield from pool.map(lambda each: context.ledger.get_balance(each.account_id), chunk)


def _write(out: IO[str], columns: tuple[str, ...], things: Iterable[msgspec.Struct]) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for thing in things:
        writer.writerow([_harmless(getattr(thing, name)) for name in columns])


def _harmless(value: Any) -> str:
    """Write a value; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = cell(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text
