"""The service and the reference as engines: each takes a step and answers with a word."""

from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from app import errors
from app.bootstrap import Services
from app.kit.money import DecimalText, decimal_text, parse_amount, parse_signed
from app.ledger.codes import Direction, Frozen
from app.ledger.holds import CaptureRequest, HoldRequest
from app.ledger.model import AccountChange, AccountRequest, Expectation, TransactionRequest
from app.ledger.reversals import ReversalRequest
from app.ledger.transfers import TransferRequest
from tests.conformance.programs import ACCOUNTS, Step
from tests.conformance.reference import Reference
from tests.failure.conftest import pipeline_of


def absolute(
    reference: Reference, account_id: str, expected: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    """What a posting expects, from how far that is from what the account has."""
    account = reference.accounts[account_id]
    version, available = expected
    return (
        None if version is None else account.version + version,
        None if available is None else account.available + available,
    )


def expected_of(reference: Reference, step: Step) -> str:
    """What the reference answers."""
    if step.transfers:
        return reference.transfer(step.transfers, step.key)
    if step.hold is not None:
        return expected_of_hold(reference, step.account_id, step.key, *step.hold)
    if step.account_id == "reversal":
        return reference.reverse(step.change_of, step.key)
    if step.change_of:
        return expected_of_change(reference, step)
    return reference.post(
        step.account_id,
        step.change,
        step.key,
        absolute(reference, step.account_id, step.expected),
    )


def expected_of_change(reference: Reference, step: Step) -> str:
    if step.change_of == "limit":
        return reference.limit(step.account_id, step.change)
    if step.change_of == "frozen":
        return reference.freeze(step.account_id, step.key)
    return reference.close(step.account_id)


def expected_of_hold(
    reference: Reference, what: str, key: str, name: str, amount: int | None, more: Any
) -> str:
    if what == "end":
        return end_in_reference(reference, key, name, amount, more)
    return reference.hold(key, name, amount or 0, more)


def end_in_reference(
    reference: Reference, key: str, name: str, amount: int | None, final: Any
) -> str:
    """What is held under a name that was refused is nothing that can be ended."""
    if name not in reference.holds:
        return "hold_not_found"
    return reference.end(key, name, amount, final=final)


async def take(services: Services, step: Step) -> str:
    """What the service answers."""
    if step.account_id == "reversal":
        return await reverse(services, step.change_of, step.key)
    if step.transfers:
        return await post_group(services, step.transfers, step.key)
    if step.hold is not None:
        name, amount, more = step.hold
        if step.account_id == "hold":
            return await place(services, step.key, name, amount or 0, more)
        return await end(services, step.key, name, amount, more)
    return await (change if step.change_of else post)(services, step)


async def change(services: Services, step: Step) -> str:
    """Change an account's limit, what it is frozen for, or close it."""
    wanted = AccountChange(
        credit_limit=DecimalText(str(step.change // 100), f"{step.change % 100:02}")
        if step.change_of == "limit"
        else None,
        frozen=Frozen(step.key) if step.change_of == "frozen" else None,
        closed=step.change_of == "close",
    )
    try:
        await services.ledger.change_account(step.account_id, wanted)
    except errors.Rejected as error:
        return error.code
    return "done"


async def post(services: Services, step: Step) -> str:
    request = TransactionRequest(
        account_id=step.account_id,
        amount=parse_amount(decimal_text(abs(step.change), 2)),
        direction=Direction.CREDIT if step.change > 0 else Direction.DEBIT,
        idempotency_key=step.key,
        expect=expectation_of(*step.expected),
    )
    try:
        acceptance = await services.ledger.post_transaction(request)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


def expectation_of(version: int | None, available: int | None) -> Expectation | None:
    """What a posting expects, in figures of its account."""
    if version is None and available is None:
        return None
    wanted = None if available is None else parse_signed(decimal_text(available, 2), "/")
    return Expectation(
        version=version,
        available_at_least=wanted and wanted[0],
        is_negative=wanted is not None and wanted[1],
    )


async def reverse(services: Services, name: str, key: str) -> str:
    """Take back what was accepted under a name."""
    ledger = services.ledger
    try:
        original = await ledger.transaction_by_key(name)
        said = ReversalRequest(idempotency_key=key)
        wanted = await ledger.reversal_of(original.transaction_id, said)
        acceptance = await ledger.post_transaction(wanted)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def post_group(
    services: Services, transfers: tuple[tuple[str, str, int], ...], key: str
) -> str:
    """Send (debit, credit, amount) transfers as a group."""
    requests = [
        TransferRequest(
            debit_account_id=debit,
            credit_account_id=credit,
            amount=parse_amount(decimal_text(amount, 2)),
        )
        for debit, credit, amount in transfers
    ]
    try:
        acceptance = await services.ledger.post_transfers(requests, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


def hold_id_of(name: str) -> UUID:
    """The id a program's client chooses for the hold it places under a name."""
    return uuid5(NAMESPACE_OID, name)


async def place(services: Services, key: str, account_id: str, amount: int, credit: Any) -> str:
    """Hold an amount under a key and an id of its own."""
    request = HoldRequest(
        account_id=account_id,
        amount=parse_amount(decimal_text(amount, 2)),
        credit_account_id=credit,
        hold_id=hold_id_of(key),
    )
    try:
        acceptance = await services.ledger.holds.place(request, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def end(services: Services, key: str, name: str, amount: int | None, final: Any) -> str:
    """Capture, or release where the amount is zero."""
    try:
        if amount == 0:
            acceptance = await services.ledger.holds.release(hold_id_of(name), key)
        else:
            text = None if amount is None else parse_amount(decimal_text(amount, 2))
            request = CaptureRequest(amount=text, final=final)
            acceptance = await services.ledger.holds.capture(hold_id_of(name), request, key)
    except errors.Rejected as error:
        return error.code
    return "replayed" if acceptance.replayed else "accepted"


async def switch(services: Services) -> None:
    """Give the decision to the other side."""
    keeper = pipeline_of(services)._mode
    if keeper.current.mode == "redis":
        keeper._breaker._breaker.open()
        assert await keeper.fall_back(keeper.epoch)
    else:
        assert await keeper.open_redis(keeper.epoch, "test")


async def open_accounts(services: Services, reference: Reference, prefix: str = "") -> None:
    """Open a program's accounts in both."""
    for account_id, (opening, limit) in ACCOUNTS.items():
        reference.open(account_id, opening, limit)
        await services.ledger.open_account(
            AccountRequest(
                account_id=prefix + account_id,
                currency="USD",
                exponent=2,
                opening_minor=opening,
                credit_limit_minor=limit,
            )
        )
