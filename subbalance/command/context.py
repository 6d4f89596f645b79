"""What every command is given: the client, made when it is needed, and the output."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from subbalance import errors
from subbalance.attempts import Policy
from subbalance.call import checked_key, segment
from subbalance.client import Client
from subbalance.command.output import UNAVAILABLE, Output

P = ParamSpec("P")
T = TypeVar("T")


class Context:
    """The options that stand before every command."""

    def __init__(self, url: str, deadline_s: float, output: Output) -> None:
        self.output = output
        self._url = url
        self._deadline_s = deadline_s
        self._stack = ExitStack()

    @functools.cached_property
    def ledger(self) -> Client:
        """The client, which is closed with the context."""
        policy = Policy(deadline_s=self._deadline_s)
        return self._stack.enter_context(Client(self._url, policy=policy))

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()


def command(
    function: Callable[Concatenate[Context, P], T],
) -> Callable[P, T]:
    """Give a command its context, and its exit code where the ledger does not do what is asked."""

    @click.pass_obj
    @functools.wraps(function)
    def called(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(context, *args, **kwargs)
        except errors.LedgerError as error:
            raise SystemExit(context.output.fail(error)) from error
        except KeyboardInterrupt as interrupt:
            click.echo("interrupted; what was sent may have been done", err=True)
            raise SystemExit(UNAVAILABLE) from interrupt

    return called


class _Checked(click.ParamType):  # type: ignore[type-arg]
    """Text that the client accepts; what it refuses is a wrong use, and nothing is sent."""

    def __init__(self, name: str, check: Callable[[str], Any]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check what was typed."""
        try:
            return self._check(value)
        except (ValueError, InvalidOperation) as error:
            self.fail(f"{value!r} is not {self.name}: {error}", param, ctx)


def _id(text: str) -> str:
    segment(text)
    return text


def _amount(text: str) -> Decimal:
    amount = Decimal(text)
    if not amount.is_finite():
        raise ValueError("it is not finite")
    return amount


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("it is NAME=VALUE")
    return name, value


def _instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("it has no time zone")
    return text


ID = _Checked("an id", _id)
INSTANT = _Checked("an instant like 2026-11-21T07:29:45Z", _instant)
AMOUNT = _Checked("an amount", _amount)
KEY = _Checked("a key", checked_key)
PAIR = _Checked("an entry", _pair)

key_option = click.option(
    "--key", type=KEY, help="Your name for this one intention; the same again moves nothing twice."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only tell what would be.")
reference_option = click.option("--reference", help="At most 140 characters.")
from_option = click.option("--from", "start", type=INSTANT, help="Booked then or later.")
to_option = click.option("--to", "end", type=INSTANT, help="Booked before.")
metadata_option = click.option(
    "--metadata", type=PAIR, multiple=True, metavar="NAME=VALUE", help="May be given many times."
)


def entries(pairs: tuple[tuple[str, str], ...]) -> dict[str, str] | None:
    """Put entries of metadata together; None where there is none."""
    return dict(pairs) or None
