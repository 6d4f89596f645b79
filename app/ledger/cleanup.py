"""Test accounts brought to zero, by the same acts that anybody may do."""

from uuid import uuid4

from app import limits
from app.kit.money import decimal_text, parse_amount
from app.ledger.codes import Direction, Frozen, HoldStatus
from app.ledger.model import AccountChange, TransactionRequest
from app.ledger.service import LedgerService

_THAWED = AccountChange(frozen=Frozen.NONE)


async def empty_account(ledger: LedgerService, account_id: str) -> bool:
    """Thaw an account, release what is held of it and bring it to zero by a transaction; tells
    whether there was anything to bring.
    """
    details = await ledger.account(account_id)
    if details.frozen is not Frozen.NONE:
        await ledger.change_account(account_id, _THAWED)
    after: str | None = None
    while True:
        held, after = await ledger.holds.of_account(
            account_id, HoldStatus.HELD, after, limits.PAGE_ITEMS_MAX
        )
        for hold in held:
            await ledger.holds.release(hold.hold_id, _key())
        if after is None:
            break
    balance = await ledger.balance(account_id)
    own_minor = balance.available_minor - balance.credit_limit_minor
    if own_minor == 0:
        return False
    request = TransactionRequest(
        account_id=account_id,
        amount=parse_amount(decimal_text(abs(own_minor), balance.account.exponent)),
        direction=Direction.DEBIT if own_minor > 0 else Direction.CREDIT,
        idempotency_key=_key(),
        reference="test cleanup",
    )
    await ledger.post_transaction(request)
    return True


def _key() -> str:
    return f"test-cleanup-{uuid4()}"
