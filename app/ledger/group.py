"""The transfers of one request on their way: a unit, for they are done all or none."""

from collections.abc import Mapping, Sequence
from typing import Any

from app import errors
from app.ledger.codes import Direction
from app.ledger.model import Account, Transaction
from app.ledger.transfers import GroupAcceptance, Transfer, TransferGroup, TransferRequest
from app.ledger.unit import Leg, Unit


def check_transfers(requests: Sequence[TransferRequest], accounts: Mapping[str, Account]) -> None:
    """Refuse transfers between accounts that there are not, or that have different currencies."""
    for number, request in enumerate(requests):
        sides = {"debit": request.debit_account_id, "credit": request.credit_account_id}
        for side, account_id in sides.items():
            if account_id not in accounts:
                pointer = f"/transfers/{number}/{side}_account_id"
                raise errors.AccountNotFound(pointer=pointer, account_id=account_id)
        debit, credit = (accounts[account_id] for account_id in sides.values())
        if debit.currency != credit.currency:
            raise errors.CurrencyMismatch(
                f"One account has {debit.currency}, the other {credit.currency}.",
                pointer=f"/transfers/{number}/credit_account_id",
            )


def account_ids_of(requests: Sequence[TransferRequest]) -> set[str]:
    """Name every account of transfers."""
    wanted = {each.debit_account_id for each in requests}
    wanted.update(each.credit_account_id for each in requests)
    return wanted


class Group(Unit):
    """Transfers of one request."""

    def __init__(
        self,
        requests: Sequence[TransferRequest],
        key: str | None,
        accounts: Mapping[str, Account],
        deadline: float,
        postgres: str,
    ) -> None:
        """Take checked transfers, one at least, and the key that names all of them; the rest is
        what `Item` takes. Raises `AmountTooPrecise` or `AmountTooLarge`.
        """
        super().__init__(deadline, len(requests))
        self._requests = requests

        def legs(direction: Direction) -> list[Leg]:
            made = []
            for number, request in enumerate(requests):
                is_debit = direction is Direction.DEBIT
                name = request.debit_account_id if is_debit else request.credit_account_id
                asked = request.leg(direction, key if is_debit and number == 0 else None)
                try:
                    leg = Leg(self, number, asked, accounts[name], deadline, postgres)
                except errors.Rejected as error:
                    error.pointer = f"/transfers/{number}{error.pointer or ''}"
                    raise
                made.append(leg)
            return made

        self.stand(legs(Direction.DEBIT), legs(Direction.CREDIT))

    def pointer_of(self, leg: Leg) -> str:
        """Name a transfer's debit or credit account."""
        side = "debit" if leg.change_minor < 0 else "credit"
        return f"/transfers/{leg.number}/{side}_account_id"

    def _completed(self, halves: Mapping[Leg, Transaction]) -> GroupAcceptance:
        debits, credits_ = self.legs[: self.transfer_count], self.legs[self.transfer_count :]
        pairs = zip(debits, credits_, strict=True)
        transfers = tuple(Transfer(halves[debit], halves[credit]) for debit, credit in pairs)
        return GroupAcceptance(TransferGroup(transfers), replayed=False)

    def _replayed(self, found: TransferGroup) -> GroupAcceptance:
        return GroupAcceptance(found, replayed=True)

    def _as_found(self, result: GroupAcceptance) -> TransferGroup:
        return result.group

    def _is_repetition_of(self, found: Any) -> bool:
        return (
            isinstance(found, TransferGroup)
            and len(found.transfers) == len(self._requests)
            and all(
                transfer.answers(request) and transfer.debit.change_minor == debit.change_minor
                for transfer, request, debit in zip(
                    found.transfers, self._requests, self.legs[: self.transfer_count], strict=True
                )
            )
        )
