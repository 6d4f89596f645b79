"""What a command prints: tables for a person, tab-separated text for a pipe, JSON when asked."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from subbalance import errors

REFUSED, UNAVAILABLE = 1, 3  # and 2 is click's, for what was typed wrong
_encode = msgspec.json.Encoder(decimal_format="string").encode


class Output:
    """Prints in one of the three ways."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._console = Console(file=sys.stdout) if sys.stdout.isatty() else None

    def show(self, thing: msgspec.Struct) -> None:
        """Print one thing, a line for each of its fields."""
        if self.is_json:
            click.echo(_encode(thing))
            return
        fields = [(name, cell(getattr(thing, name))) for name in thing.__struct_fields__]
        if self._console is None:
            for name, value in fields:
                click.echo(f"{name}\t{value}")
            return
        table = Table.grid(padding=(0, 2))
        for name, value in fields:
            table.add_row(Text(name, style="dim"), Text(value))
        self._console.print(table)

    def list(
        self, things: Iterable[msgspec.Struct], columns: Sequence[str], *, is_endless: bool = False
    ) -> None:
        """Print many things, a line for each; JSON has all of their fields. What is endless is
        never a table, for that is printed as a whole.
        """
        if self.is_json:
            for thing in things:
                click.echo(_encode(thing))
        elif self._console is None or is_endless:
            click.echo("\t".join(columns))
            for thing in things:
                click.echo("\t".join(cell(getattr(thing, name)) for name in columns))
        else:
            table = Table()
            for name in columns:
                table.add_column(name)
            for thing in things:
                table.add_row(*(Text(cell(getattr(thing, name))) for name in columns))
            self._console.print(table)

    def fail(self, error: errors.LedgerError) -> int:
        """Say why a call failed; returns the exit code."""
        exit_code, word = UNAVAILABLE, "unavailable, nothing changed"
        if isinstance(error, errors.Rejected):
            exit_code, word = REFUSED, "refused"
        elif isinstance(error, errors.OutcomeUnknown):
            word = "outcome unknown, the same again (with its key) tells"
        elif isinstance(error, errors.InvariantViolation):
            word = "the service is in the wrong, a person has to look"
        if not self.is_json:
            click.echo(f"{word}: {error}", err=True)
            return exit_code
        told = {
            "error": word,
            "code": error.code,
            "detail": error.detail,
            "http_status": error.http_status,
            "pointer": error.pointer,
            "idempotency_key": error.idempotency_key,
            "attempts": error.attempts,
            "earlier_unclear": error.earlier_unclear,
            "members": error.members,
        }
        click.echo(_encode(told), err=True)
        return exit_code


def cell(value: Any) -> str:
    """Write a value for people and for spreadsheets."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict | list | msgspec.Struct):
        return _encode(value).decode()
    return str(value)
