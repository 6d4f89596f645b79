"""The wire of accounts: opening, changing and listing them; see `app/ledger/schemas.py`."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app import errors, limits
from app.kit.decoding import check_metadata
from app.kit.money import DecimalText, currency_exponent, decimal_text, minor_units, parse_amount
from app.ledger.codes import Frozen
from app.ledger.model import (
    AccountChange,
    AccountDetails,
    AccountRequest,
    AccountsPage,
    check_customer_account_id,
)
from app.ledger.schemas import Amount, instant, ordered_metadata

_ZERO = DecimalText("0", "")


class AccountBody(msgspec.Struct, forbid_unknown_fields=True):
    """An account to open."""

    account_id: Annotated[str, Meta(examples=["ACC010"])]
    currency: Annotated[str | None, Meta(description="ISO 4217", examples=["USD"])] = None
    opening_balance: Amount = "0"
    credit_limit: Amount = "0"
    metadata: dict[str, str] = {}

    def to_request(self, default_currency: str) -> AccountRequest:
        """Check an opening; raises one error for each way to be wrong."""
        check_customer_account_id(self.account_id)
        currency = default_currency if self.currency is None else self.currency
        exponent = _exponent(currency)
        check_metadata(self.metadata)
        return AccountRequest(
            account_id=self.account_id,
            currency=currency,
            exponent=exponent,
            opening_minor=_minor_or_zero(self.opening_balance, exponent, "/opening_balance"),
            credit_limit_minor=_minor_or_zero(self.credit_limit, exponent, "/credit_limit"),
            metadata=self.metadata,
        )


class AccountsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Accounts to open for tests."""

    accounts: Annotated[list[AccountBody], Meta(min_length=1, max_length=limits.TEST_ACCOUNTS_MAX)]


class AccountChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of an account, at least one thing; what is left out stays as it is."""

    credit_limit: Amount | UnsetType = UNSET
    frozen: Annotated[
        Frozen | UnsetType, Meta(description="Which transactions it is to take no more")
    ] = UNSET
    metadata: Annotated[
        dict[str, str] | UnsetType, Meta(description="Takes the place of all there is")
    ] = UNSET
    closed: Annotated[
        bool | UnsetType,
        Meta(description="Only `true`, at a balance of zero, and nothing can be changed after it"),
    ] = UNSET

    def to_change(self, config_versions: tuple[int, ...] | None) -> AccountChange:
        """Check what needs no account; raises one error for each way to be wrong."""
        if all(getattr(self, field) is UNSET for field in self.__struct_fields__):
            raise errors.InvalidValue("At least one thing to change is needed.", pointer="")
        if self.closed is False:
            raise errors.InvalidValue("A closed account stays closed.", pointer="/closed")
        metadata = None if self.metadata is UNSET else self.metadata
        check_metadata(metadata)
        return AccountChange(
            credit_limit=None if self.credit_limit is UNSET else _limit(self.credit_limit),
            frozen=None if self.frozen is UNSET else self.frozen,
            metadata=metadata,
            closed=self.closed is True,
            config_versions=config_versions,
        )


class AccountAnswer(msgspec.Struct, kw_only=True):
    """An account's configuration; `version` counts its settled changes."""

    account_id: str
    currency: str
    credit_limit: str
    metadata: dict[str, str]
    frozen: Annotated[Frozen, Meta(description="Which transactions it takes no more")]
    closed: Annotated[bool, Meta(description="It takes no transactions any more, for ever")]
    version: int
    created_at: str
    updated_at: str


class AccountsAnswer(msgspec.Struct, kw_only=True):
    """A page of accounts; with a `next_cursor` there may be more, even after an empty page."""

    accounts: list[AccountAnswer]
    next_cursor: str | None = None


def account_answer(details: AccountDetails) -> AccountAnswer:
    """Show an account."""
    return AccountAnswer(
        account_id=details.account.account_id,
        currency=details.account.currency,
        credit_limit=decimal_text(details.credit_limit_minor, details.account.exponent),
        metadata=ordered_metadata(details.metadata) or {},
        frozen=details.frozen,
        closed=details.closed,
        version=details.version,
        created_at=instant(details.created_at),
        updated_at=instant(details.updated_at),
    )


def accounts_answer(page: AccountsPage) -> AccountsAnswer:
    """Show a page of accounts."""
    accounts = [account_answer(details) for details in page.accounts]
    return AccountsAnswer(accounts=accounts, next_cursor=page.next_cursor)


def _exponent(currency: str) -> int:
    """Look a currency up, naming its field when there is none."""
    try:
        return currency_exponent(currency)
    except errors.UnknownCurrency as error:
        error.pointer = "/currency"
        raise


def _limit(amount: str | int) -> DecimalText:
    """Read a new credit limit, which may be zero, naming its field when it is wrong."""
    try:
        return parse_amount(amount)
    except errors.AmountZero:
        return _ZERO
    except errors.Rejected as error:
        error.pointer = "/credit_limit"
        raise


def _minor_or_zero(amount: str | int, exponent: int, pointer: str) -> int:
    """Read an amount that may be zero, naming its own field when it is wrong."""
    try:
        return minor_units(parse_amount(amount), exponent)
    except errors.AmountZero:
        return 0
    except errors.Rejected as error:
        error.pointer = pointer
        raise
