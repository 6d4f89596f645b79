"""What PostgreSQL is asked about groups of transfers and acts on holds, whatever names them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from app import errors
from app.kit.ids import EntryPosition
from app.ledger.hold_store import read_done_acts
from app.ledger.holds import DoneAct
from app.ledger.model import Identity, Transaction
from app.ledger.store import QUERIES, LedgerStore, transaction_of
from app.ledger.transfers import Transfer, TransferGroup

Accepted = Transaction | TransferGroup | DoneAct
# Finds what was accepted under identities: single transactions, or what `find_units` finds.
FindAccepted = Callable[[Sequence[Identity]], Awaitable[Mapping[Identity, Accepted | None]]]
_Row = Any


async def find_units(
    store: LedgerStore, identities: Sequence[Identity]
) -> dict[Identity, TransferGroup | DoneAct | None]:
    """Find the groups of transfers and the acts on holds that were accepted under identities; None
    where one names something else.
    """
    if not identities:
        return {}
    scopes = [identity.scope for identity in identities]
    names = [identity.name for identity in identities]
    named = await store.fetch_sql(QUERIES["groups_named"], scopes, names)
    places = {
        (row["batch_seq"], row["group_no"]): EntryPosition(row["batch_seq"], row["item_no"])
        for row in named
        if row["group_no"] is not None and not row["is_hold"]
    }
    groups = await _groups_at(store, list(places.values()))
    acts = await read_done_acts(
        store, [(row["batch_seq"], row["item_no"]) for row in named if row["is_hold"]]
    )
    return {
        Identity(row["scope"], row["name"]): acts.get((row["batch_seq"], row["item_no"]))
        if row["is_hold"]
        else groups.get((row["batch_seq"], row["group_no"]))
        for row in named
    }


async def read_group_at(store: LedgerStore, position: EntryPosition) -> TransferGroup | None:
    """Find the group that the entry at a place in the journal belongs to, if it does."""
    return next(iter((await _groups_at(store, [position])).values()), None)


async def _groups_at(
    store: LedgerStore, positions: Sequence[EntryPosition]
) -> dict[tuple[int, int], TransferGroup]:
    """The groups that entries belong to, each once, by batch and number in it."""
    if not positions:
        return {}
    places = ([each.batch_seq for each in positions], [each.item_no for each in positions])
    rows_of: dict[tuple[int, int], list[_Row]] = {}
    for row in await store.fetch_sql(QUERIES["groups_at"], *places):
        # What a hold's capture gives to nobody here is half of nothing.
        if row["transfer_no"] is not None:
            rows_of.setdefault((row["batch_seq"], row["group_no"]), []).append(row)
    return {place: _group(rows) for place, rows in rows_of.items()}


def _group(rows: Sequence[_Row]) -> TransferGroup:
    """Put the entries of a group together."""
    debits = {row["transfer_no"]: transaction_of(row) for row in rows if row["change_minor"] < 0}
    credits_ = {row["transfer_no"]: transaction_of(row) for row in rows if row["change_minor"] > 0}
    errors.require(debits.keys() == credits_.keys(), "a transfer has not exactly two entries")
    return TransferGroup(tuple(Transfer(debits[each], credits_[each]) for each in sorted(debits)))
