"""The wire of dry runs."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.kit.money import decimal_text
from app.ledger.codes import HoldStatus
from app.ledger.dry_run import Foreseen
from app.ledger.holds import Hold, HoldAcceptance
from app.ledger.model import Acceptance, Account
from app.ledger.transfers import GroupAcceptance


class ForeseenAccount(msgspec.Struct, kw_only=True):
    """An account as the request would leave it."""

    account_id: str
    currency: str
    available_balance: str


class ForeseenHold(msgspec.Struct, kw_only=True):
    """A hold as the request would leave it."""

    hold_id: str
    status: HoldStatus
    captured: str
    released: str
    remaining: str


class DryRunAnswer(msgspec.Struct, kw_only=True):
    """What would become of a request that would not be refused; nothing was changed."""

    dry_run: Literal[True] = True
    outcome: Annotated[
        Literal["accepted", "replayed"],
        Meta(description="`replayed` when the very request was accepted before"),
    ]
    transaction_id: Annotated[
        str | None, Meta(description="The transaction, transfer or hold that was accepted before")
    ] = None
    hold: Annotated[
        ForeseenHold | UnsetType, Meta(description="What an act on a hold would make of it")
    ] = UNSET
    accounts: list[ForeseenAccount]


def dry_run_answer(foreseen: Foreseen, hold: Hold | None = None) -> DryRunAnswer:
    """Show what would become of a request, and of the hold that it is about."""
    found = foreseen.replayed
    before = None
    if isinstance(found, Acceptance):
        before = str(found.transaction.transaction_id)
    elif isinstance(found, GroupAcceptance):
        before = str(found.group.group_id)
    elif isinstance(found, HoldAcceptance):
        before = str(found.hold.hold_id)
    return DryRunAnswer(
        outcome="accepted" if found is None else "replayed",
        transaction_id=before,
        hold=UNSET if hold is None else _hold(hold),
        accounts=foreseen_accounts(foreseen.available_minor),
    )


def foreseen_accounts(available_minor: Mapping[Account, int]) -> list[ForeseenAccount]:
    """Show accounts as a request would leave them."""
    return [
        ForeseenAccount(
            account_id=account.account_id,
            currency=account.currency,
            available_balance=decimal_text(minor, account.exponent),
        )
        for account, minor in available_minor.items()
    ]


def _hold(hold: Hold) -> ForeseenHold:
    exponent = hold.account.exponent
    return ForeseenHold(
        hold_id=str(hold.hold_id),
        status=hold.status,
        captured=decimal_text(hold.captured_minor, exponent),
        released=decimal_text(hold.released_minor, exponent),
        remaining=decimal_text(hold.remaining_minor, exponent),
    )
