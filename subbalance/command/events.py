"""`subbalance events`: what happened, and what happens from now on."""

import contextlib
import time
from collections.abc import Iterator

import click

from subbalance.answers import Event
from subbalance.client import Client
from subbalance.command.context import ID, Context, command

_COLUMNS = ("sequence", "occurred_at", "account_id", "type", "id")
_PAUSE_S = 0.5


@click.command()
@click.option("--account", "account_id", type=ID, help="Of this account only.")
@click.option("--cursor", help="What comes after it: an event's sequence; else from the beginning.")
@click.option("--follow", is_flag=True, help="Wait for more, until interrupted.")
@command
def events(context: Context, account_id: str | None, cursor: str | None, follow: bool) -> None:
    """Tell what happened, in the order in which everybody is told."""
    if not follow:
        told = context.ledger.list_events(cursor=cursor, account_id=account_id)
        context.output.list(told, _COLUMNS)
        return
    with contextlib.suppress(KeyboardInterrupt):
        context.output.list(
            _followed(context.ledger, cursor, account_id), _COLUMNS, is_endless=True
        )


def _followed(ledger: Client, cursor: str | None, account_id: str | None) -> Iterator[Event]:
    while True:
        page = ledger.get_events(cursor=cursor, account_id=account_id)
        yield from page.events
        if page.next_cursor == cursor:
            time.sleep(_PAUSE_S)
        cursor = page.next_cursor
