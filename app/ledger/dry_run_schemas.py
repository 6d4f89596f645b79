"""The wire of dry runs."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kit.money import decimal_text
from app.ledger.dry_run import Foreseen
from app.ledger.model import Acceptance
from app.ledger.transfers import GroupAcceptance


class ForeseenAccount(msgspec.Struct, kw_only=True):
    """An account as the request would leave it."""

    account_id: str
    currency: str
    available_balance: str


class DryRunAnswer(msgspec.Struct, kw_only=True):
    """What would become of a request that would not be refused; nothing was changed."""

    dry_run: Literal[True] = True
    outcome: Annotated[
        Literal["accepted", "replayed"],
        Meta(description="`replayed` when the very request was accepted before"),
    ]
    transaction_id: Annotated[
        str | None, Meta(description="The transaction or transfer that was accepted before")
    ] = None
    accounts: list[ForeseenAccount]


def dry_run_answer(foreseen: Foreseen) -> DryRunAnswer:
    """Show what would become of a request."""
    found = foreseen.replayed
    before = None
    if isinstance(found, Acceptance):
        before = str(found.transaction.transaction_id)
    elif isinstance(found, GroupAcceptance):
        before = str(found.group.group_id)
    return DryRunAnswer(
        outcome="accepted" if found is None else "replayed",
        transaction_id=before,
        accounts=[
            ForeseenAccount(
                account_id=account.account_id,
                currency=account.currency,
                available_balance=decimal_text(minor, account.exponent),
            )
            for account, minor in foreseen.available_minor.items()
        ],
    )
