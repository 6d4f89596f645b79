"""An act on a hold on its way: transfers to the holding account and from it, and the hold's row."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from app import errors
from app.kit.money import decimal_text, minor_units, parse_amount
from app.ledger.codes import Direction, HoldKind
from app.ledger.holds import CaptureRequest, DoneAct, Hold, HoldAcceptance, HoldRequest
from app.ledger.model import Account, Transaction, TransactionRequest
from app.ledger.store import encode_json
from app.ledger.unit import Act, Leg, Unit


class Way(NamedTuple):
    """What every unit is told of its request: its deadline in loop time, the PostgreSQL that the
    accounts were read from, and the key that names it.
    """

    deadline: float
    postgres: str
    key: str | None = None


class Movement(NamedTuple):
    """An amount from one account to another, or to nobody here."""

    debit: Account
    credit: Account | None
    amount_minor: int


class HoldUnit(Unit):
    """One act; its answer is the hold as the act leaves it."""

    def __init__(
        self,
        act: Act,
        hold: Hold | None,
        movements: Sequence[Movement],
        way: Way,
        receiver: Account | None,
        hold_id: UUID | None = None,
        **said: Any,
    ) -> None:
        """Take what the act moves, in order, and whom the hold is for; `hold_id` is a new hold's,
        where its client chose it, and `said` what every movement is said to be.
        """
        super().__init__(way.deadline, len(movements), act)
        self._hold = hold
        self._receiver = receiver
        debits: list[Leg] = []
        credits_: list[Leg] = []
        for number, (debit, credit, amount_minor) in enumerate(movements):
            amount = parse_amount(decimal_text(amount_minor, debit.exponent))
            pair = None if credit is None else number
            name: dict[str, Any] = {}
            if number == 0:
                name = {"idempotency_key": way.key, "transaction_id": hold_id}
            for account, direction in ((debit, Direction.DEBIT), (credit, Direction.CREDIT)):
                if account is None:
                    continue
                is_debit = direction is Direction.DEBIT
                request = TransactionRequest(
                    account_id=account.account_id,
                    amount=amount,
                    direction=direction,
                    **said,
                    **(name if is_debit else {}),
                )
                leg = Leg(self, pair, request, account, way.deadline, way.postgres)
                (debits if is_debit else credits_).append(leg)
        self.stand(debits, credits_)

    def pointer_of(self, leg: Leg) -> str:
        """Name the account that the hold is on, or whom it is for."""
        hold, name = self._hold, leg.account.account_id
        is_own = leg is self.legs[0] if hold is None else name == hold.account.account_id
        return "/account_id" if is_own else "/credit_account_id"

    def refusal_of(self, leg: Leg, error: errors.LedgerError) -> errors.LedgerError:
        """As for any unit, but that a hold lacks what another act on it takes just now."""
        is_holding = leg.change_minor < 0 and self._hold is not None
        if is_holding and isinstance(error, errors.InsufficientAvailable):
            return errors.HoldChanged()
        return super().refusal_of(leg, error)

    def left_out(self) -> errors.LedgerError | None:
        """The hold was at another version."""
        return errors.HoldChanged()

    def _completed(self, halves: Mapping[Leg, Transaction]) -> HoldAcceptance:
        act, first = self.own_act, halves[self.legs[0]]
        if self._hold is not None:
            figures = (act.kind, act.captured_minor, act.released_minor)
            hold = self._hold.after(*figures, first.accepted_at, first.mode)
            return HoldAcceptance(hold, replayed=False)
        lasts = None if act.expires_in_s is None else timedelta(seconds=act.expires_in_s)
        hold = Hold(
            hold_id=first.transaction_id,
            account=first.account,
            credit_account=self._receiver,
            amount_minor=-first.change_minor,
            expires_at=None if lasts is None else first.accepted_at + lasts,
            created_at=first.accepted_at,
            updated_at=first.accepted_at,
            mode=first.mode,
            reference=first.reference,
            metadata=first.metadata,
        )
        return HoldAcceptance(hold, replayed=False)

    @property
    def own_act(self) -> Act:
        """What it does to a hold."""
        if self.act is None:
            raise errors.InvariantViolation("a unit of a hold has no act")
        return self.act

    def _replayed(self, found: DoneAct) -> HoldAcceptance:
        return HoldAcceptance(found.hold, replayed=True)

    def _as_found(self, result: HoldAcceptance) -> DoneAct:
        act = self.own_act
        return DoneAct(kind=act.kind, asked=act.asked, hold=result.hold, attempt_id=0)

    def _is_repetition_of(self, found: Any) -> bool:
        return is_repetition(found, self.own_act.kind, self.own_act.asked, self.own_act.hold_id)


def is_repetition(found: Any, kind: HoldKind, asked: str, hold_id: UUID | None) -> bool:
    """Compare everything a client says about an act; a new hold's id is among what it asks."""
    return (
        isinstance(found, DoneAct)
        and (found.kind, found.asked) == (kind, asked)
        and hold_id in (None, found.hold.hold_id)
    )


def placing(
    request: HoldRequest,
    account: Account,
    credit: Account | None,
    holding: Account | None,
    way: Way,
) -> HoldUnit:
    """Set money aside; for a dry run there need not be a `holding` account yet. Raises
    `AmountTooPrecise` or `AmountTooLarge`.
    """
    amount_minor = minor_units(request.amount, account.exponent)
    metadata = sorted(request.metadata.items()) if request.metadata else None
    said = (account.account_id, amount_minor, request.credit_account_id, request.expires_in_s)
    act = Act(
        kind=HoldKind.PLACE,
        asked=encode_json([*said, request.reference, metadata]).decode(),
        credit_account_no=None if credit is None else credit.account_no,
        expires_in_s=request.expires_in_s,
    )
    return HoldUnit(
        act,
        None,
        [Movement(account, holding, amount_minor)],
        way,
        credit,
        request.hold_id,
        reference=request.reference,
        metadata=request.metadata,
    )


def capturing(
    hold: Hold, holding: Account, captured_minor: int, released_minor: int, asked: str, way: Way
) -> HoldUnit:
    """Give what is held to whom it is for, or to nobody here, and the rest back."""
    act = _act(HoldKind.CAPTURE, hold, captured_minor, released_minor, asked)
    movements = [Movement(holding, hold.credit_account, captured_minor)]
    if released_minor:
        movements.append(Movement(holding, hold.account, released_minor))
    return HoldUnit(act, hold, movements, way, hold.credit_account, reference=hold.reference)


def releasing(hold: Hold, holding: Account, kind: HoldKind, way: Way) -> HoldUnit:
    """Give back all that is held still."""
    act = _act(kind, hold, 0, hold.remaining_minor, "")
    movements = [Movement(holding, hold.account, hold.remaining_minor)]
    return HoldUnit(act, hold, movements, way, hold.credit_account, reference=hold.reference)


def asked_of(request: CaptureRequest) -> str:
    """What a client says of a capture, in one text."""
    amount = request.amount
    said = None if amount is None else [amount.whole, amount.fraction.rstrip("0")]
    return encode_json([said, request.is_final]).decode()


def _act(kind: HoldKind, hold: Hold, captured_minor: int, released_minor: int, asked: str) -> Act:
    return Act(
        kind=kind,
        asked=asked,
        hold_id=hold.hold_id,
        version=hold.version,
        captured_minor=captured_minor,
        released_minor=released_minor,
    )
