"""How the tests of transfers send groups, and what they look at afterwards."""

import asyncio
from typing import Any

from app import errors
from app.bootstrap import Services
from app.kit.money import parse_amount
from app.ledger.admission import Slot
from app.ledger.group import Group
from app.ledger.transfers import GroupAcceptance, TransferRequest

Asked = tuple[str, str, str]


def transfer(debit: str, credit: str, amount: str, **more: Any) -> TransferRequest:
    return TransferRequest(
        debit_account_id=debit, credit_account_id=credit, amount=parse_amount(amount), **more
    )


async def send(services: Services, *asked: Asked, key: str | None = None) -> GroupAcceptance:
    """Send a group of (debit, credit, amount)."""
    return await services.ledger.post_transfers([transfer(*each) for each in asked], key)


async def answers(services: Services, *groups: tuple[Asked, ...]) -> list[Any]:
    """Send groups at once; what each is accepted as or refused with."""
    return await asyncio.gather(
        *(send(services, *group) for group in groups), return_exceptions=True
    )


async def carried(services: Services, *asked: tuple[str, tuple[Asked, ...]]) -> list[Any]:
    """Let groups with their keys be one batch; what each is accepted as or refused with."""
    ledger = services.ledger
    names = {name for _, group in asked for debit, credit, _ in group for name in (debit, credit)}
    accounts = await ledger._accounts.find(names)
    groups = [
        Group(
            [transfer(*each) for each in group],
            key,
            accounts,
            asyncio.get_running_loop().time() + 10,
            ledger._accounts.current_postgres(),
        )
        for key, group in asked
    ]
    carrier = ledger._groups._carry.__self__  # type: ignore[attr-defined]
    assert await carrier.carry(Slot(f"test.{asked[0][0]}"), groups) == []
    return await asyncio.gather(*(each.future for each in groups), return_exceptions=True)


def code(answer: Any) -> str:
    return answer.code if isinstance(answer, errors.LedgerError) else "accepted"


async def balances(services: Services, *account_ids: str) -> list[int]:
    """What accounts have available, as PostgreSQL says."""
    return [(await services.ledger.balance(each)).available_minor for each in account_ids]


async def linked(database: Any) -> list[tuple[int, ...]]:
    """The signed amounts of each group, in the order they were journaled."""
    rows = await database.fetch(
        "SELECT array_agg(e.change_minor ORDER BY e.change_minor) AS changes"
        "  FROM journal_entries e JOIN journal_batches b USING (batch_seq)"
        " WHERE b.group_nos IS NOT NULL"
        " GROUP BY e.batch_seq, b.group_nos[e.item_no + 1] ORDER BY e.batch_seq, 1"
    )
    return [tuple(row["changes"]) for row in rows]
