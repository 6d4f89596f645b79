"""What PostgreSQL is asked about changing and listing accounts."""

from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from app import limits
from app.ledger.codes import Changed
from app.ledger.mode import Ruling
from app.ledger.model import AccountChange, AccountDetails, AccountFilter
from app.ledger.outcomes import ChangeOutcome
from app.ledger.store import QUERIES, SHARD, LedgerStore, details_of, encode_json

_decode_told = msgspec.json.Decoder(tuple[str, str | None, int | None]).decode


class SaidChange(NamedTuple):
    """An attempt to change an account under a ruling; `limit_minor` is the new limit."""

    ruling: Ruling
    attempt_id: int
    account_id: str
    change: AccountChange
    limit_minor: int | None


async def send_change(
    store: LedgerStore, said: SaidChange, available_minor: int | None
) -> ChangeOutcome:
    """Send an attempt to change an account once; see `LedgerStore.fetch_once` for what it raises.

    `available_minor` is what Redis has now that nothing is in flight; None where PostgreSQL
    decides.
    """
    query = QUERIES["change_account"]
    rows = await store.fetch_once(query, *_columns(said, available_minor))
    return _outcome(*rows[0])


async def foresee_change(store: LedgerStore, said: SaidChange) -> ChangeOutcome:
    """Have PostgreSQL decide an attempt to change an account, and take it back."""
    told = await store.fetch_undone(QUERIES["foresee_change"], *_columns(said, None))
    return _outcome(*_decode_told(told))


def _columns(said: SaidChange, available_minor: int | None) -> tuple[Any, ...]:
    ruling, attempt_id, account_id, change, limit_minor = said
    metadata = None if change.metadata is None else encode_json(change.metadata).decode()
    versions = None if change.config_versions is None else list(change.config_versions)
    return (
        SHARD,
        ruling.epoch,
        ruling.token,
        ruling.mode,
        attempt_id,
        account_id,
        versions,
        limit_minor,
        change.frozen,
        metadata,
        change.closed,
        available_minor,
        limits.BALANCE_MINOR_MAX,
    )


def _outcome(
    word: str, balance_minor: Decimal | str | None, before_minor: int | None
) -> ChangeOutcome:
    return ChangeOutcome(Changed(word), int(balance_minor or 0), before_minor or 0)


async def read_accounts(
    store: LedgerStore, wanted: AccountFilter, after: int, limit: int
) -> tuple[list[AccountDetails], int | None]:
    """Read a page of accounts after a number and, if there may be more, the number to go on from.

    A page is shorter, or empty, where few of the accounts it may look at are as wanted.
    """
    rows = await store.fetch_sql(
        QUERIES["list_accounts"],
        after,
        wanted.currency,
        wanted.frozen,
        wanted.closed,
        encode_json(wanted.metadata).decode(),
        limit + 1,
        limits.ACCOUNTS_LOOKED_AT_MAX,
    )
    found = [details_of(row) for row in rows if row["account_no"] is not None]
    if len(found) > limit:
        return found[:limit], found[limit - 1].account.account_no
    return found, rows[0]["ended_at"]


async def read_first_rules(
    store: LedgerStore, account_id: str
) -> tuple[int, dict[str, str]] | None:
    """Read the limit in minor units and the metadata an account was opened with; None where they
    were never changed.
    """
    rows = await store.fetch_sql(QUERIES["first_rules"], account_id)
    if not rows:
        return None
    rules = msgspec.json.decode(rows[0]["before"])
    return rules["credit_limit_minor"], rules["metadata"]
