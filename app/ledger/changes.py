"""Changes an account's limit, rules and metadata, freezes it and closes it.

    load ──> stop ──> drained ──> decide in PostgreSQL ──> reload ──> answer        (mode redis)

While an account is stopped Redis admits nothing on it, so PostgreSQL decides a change by exact
figures and no instance can go by older ones. In mode `postgres` the row's lock does all that. A
change that this process does not bring to its end is ended by `app/ledger/reaper.py`.
"""

import asyncio
import contextlib
import logging

from app import errors, limits
from app.kit.ids import AttemptNumbers
from app.kit.money import decimal_text, minor_units
from app.ledger.account_store import SaidChange, foresee_change, send_change
from app.ledger.admission import CHANGING, Admission, Fenced, LostData, Slot
from app.ledger.codes import Changed, Inspected, Mode
from app.ledger.flights import FlightRecord
from app.ledger.keys import account_key
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Account, AccountChange, AccountDetails
from app.ledger.outcomes import ChangeOutcome
from app.ledger.store import SHARD, LedgerStore

_PAUSE_S = 0.01
_PAUSE_LONGEST_S = 0.1
_STOP_S = 6.0
_DONE = (Changed.CHANGED, Changed.UNCHANGED)
_log = logging.getLogger(__name__)


class _Undone(Exception):
    """The reaper took this attempt for dead: it changes nothing, and another one may."""


class AccountChanges:
    """Changes accounts, a bounded number at once, through one slot of its own."""

    def __init__(
        self,
        mode: ModeKeeper,
        admission: Admission,
        store: LedgerStore,
        attempts: AttemptNumbers,
        deadline_ms: int,
    ) -> None:
        """Put the parts together; does no I/O."""
        self._mode = mode
        self._admission = admission
        self._store = store
        self._attempts = attempts
        self._deadline_s = deadline_ms / 1_000
        self._slot = Slot(f"{attempts.process_number}.changes")
        self._turn = asyncio.Lock()  # a slot's calls go one after the other
        self._tasks: set[asyncio.Task[AccountDetails]] = set()

    async def close(self) -> None:
        """Bring changes under way to their end; bounded."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_S)

    async def change(self, account_id: str, change: AccountChange) -> AccountDetails:
        """Change an account, or raise why not; in force everywhere when this returns.

        A caller that goes away takes nothing back: the change goes on without it.
        """
        if len(self._tasks) >= limits.CHANGES_MAX:
            raise errors.Overloaded
        task = asyncio.create_task(self._change(account_id, change))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def foresee(self, account_id: str, change: AccountChange) -> tuple[Account, int]:
        """Have PostgreSQL decide a change and take it back, or raise why it would be refused;
        returns the account and how much more it would have to spend, in minor units.

        It decides by what it knows, as in mode `postgres`: nothing is stopped, and what Redis has
        in flight is not seen.
        """
        ruling = self._mode.current
        before = await self._read(account_id)
        limit_minor = _limit_minor(before, change)
        more_minor = 0 if limit_minor is None else limit_minor - before.credit_limit_minor
        if not _is_answered(before, change, limit_minor):
            one = _Change(ruling, self._attempts.draw(), before, change, limit_minor, 0.0)
            outcome = await foresee_change(self._store, one.said)
            if outcome.word in (Changed.FENCED, Changed.BUSY):
                raise errors.AccountBusy
            if outcome.word not in _DONE:
                raise one.refusal(outcome)
        return before.account, more_minor

    def _ended(self, task: "asyncio.Task[AccountDetails]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(task.exception(), errors.InvariantViolation):
            _log.error("an account was not changed", exc_info=task.exception())

    async def _change(self, account_id: str, change: AccountChange) -> AccountDetails:
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        for _ in range(limits.CHANGE_ROUNDS_MAX):
            ruling = self._mode.current
            if ruling.mode is Mode.CLOSED:
                raise errors.LedgerClosed
            before = await self._read(account_id)
            limit_minor = _limit_minor(before, change)
            if _is_answered(before, change, limit_minor):
                return before
            one = _Change(ruling, self._attempts.draw(), before, change, limit_minor, deadline)
            take_round = self._in_redis if ruling.mode is Mode.REDIS else self._in_postgres
            try:
                return await take_round(one)
            except _Undone:
                continue
            except Fenced:
                await self._mode.settle_ruling(ruling.epoch)
            except LostData:
                _log.warning("redis lost data of an account inside epoch %s", ruling.epoch)
                await self._mode.settle_ruling(ruling.epoch, lost="redis lost data")
            except errors.RedisUnavailable:
                if not await self._mode.fall_back(ruling.epoch):
                    raise
        raise errors.AccountBusy

    async def _read(self, account_id: str) -> AccountDetails:
        details = await self._store.account_details(account_id)
        if details is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return details

    async def _in_postgres(self, one: "_Change") -> AccountDetails:
        """Let PostgreSQL decide under the lock of the account's row."""
        await self._learn(one, await self._decide(one, None))
        try:
            return await self._read(one.account_id)
        except errors.PostgresUnavailable as exc:
            raise errors.ChangeOutcomeUnknown from exc

    async def _in_redis(self, one: "_Change") -> AccountDetails:
        """Take a change through one attempt. Whatever it raises, the account is let go, except
        where PostgreSQL may have decided and did not say what.
        """
        row = await self._store.account_to_load(one.account_id)
        if row is None:
            raise errors.AccountNotFound(pointer="/account_id")
        await self._admission.load(one.ruling, [row])
        try:
            await self._stop(one)
            await self._learn(one, await self._decide(one, await self._drained(one)))
        except errors.ChangeOutcomeUnknown:
            raise
        except Exception:
            await self._undo(one)
            raise
        return await self._show(one)

    async def _stop(self, one: "_Change") -> None:
        """Have Redis admit nothing on the account, after other changes of it."""
        until = asyncio.get_running_loop().time() + limits.CHANGE_WAIT_S
        while True:
            async with self._turn:
                is_stopped = await self._admission.stop(
                    one.ruling, self._slot, one.attempt_id, one.account_id
                )
            if is_stopped:
                return
            await self._wait(one, until)

    async def _drained(self, one: "_Change") -> int:
        """Wait until nothing is in flight on the account; returns what it has available then."""
        key = account_key(SHARD, one.ruling.epoch, one.account_id)
        until = asyncio.get_running_loop().time() + limits.CHANGE_WAIT_S
        while True:
            inspected, records = await self._admission.inspect(one.ruling, [one.account_id])
            word, fields = inspected[one.account_id]
            if word is not Inspected.PRESENT:
                raise LostData
            if not fields.get("stop", "").startswith(f"{CHANGING} {one.attempt_id} "):
                raise _Undone
            holders = {record.attempt_id for record in records if _holds(record, one, key)}
            if one.attempt_id not in holders:
                raise LostData
            if holders == {one.attempt_id}:
                return int(fields["available"])
            await self._wait(one, until)

    async def _wait(self, one: "_Change", until: float) -> None:
        """Wait a little for whoever has the account; raises `AccountBusy` past the time for that.

        What is in flight in an epoch that is over may never be told of its end: `Fenced`.
        """
        if self._mode.epoch != one.ruling.epoch:
            raise Fenced
        if asyncio.get_running_loop().time() >= until:
            raise errors.AccountBusy
        await asyncio.sleep(_PAUSE_S)

    async def _decide(self, one: "_Change", available_minor: int | None) -> ChangeOutcome:
        """Have PostgreSQL decide, sending the same attempt again until its outcome is known.

        Raises `ChangeOutcomeUnknown` past the deadline when any sending may have been executed,
        `PostgresUnavailable` or, where others had the row, `AccountBusy` when none can have been.
        """
        loop, pause, unsure = asyncio.get_running_loop(), _PAUSE_S, False
        while True:
            try:
                outcome = await send_change(self._store, one.said, available_minor)
                if outcome.word is not Changed.BUSY:
                    return outcome
                failure: Exception = errors.AccountBusy()
            except errors.PostgresUnavailable as exc:
                failure = exc
            except errors.InvariantViolation as exc:
                if not unsure:
                    raise
                failure = exc
            except Exception as exc:
                failure, unsure = exc, True
            if loop.time() + pause >= one.deadline:
                if unsure:
                    raise errors.ChangeOutcomeUnknown from failure
                if isinstance(failure, errors.AccountBusy):
                    raise failure
                raise errors.PostgresUnavailable from failure
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_LONGEST_S)

    async def _learn(self, one: "_Change", outcome: ChangeOutcome) -> None:
        """Raise what an outcome means, unless the account is as it was wished to be."""
        word = outcome.word
        if word is Changed.FENCED:
            raise Fenced
        if word is Changed.VOID:
            raise _Undone
        if word is Changed.DIFFERS:
            raise LostData
        if word not in _DONE:
            raise one.refusal(outcome)

    async def _undo(self, one: "_Change") -> None:
        """Let the account go as it was before; if Redis does not listen, the reaper does it."""
        with contextlib.suppress(Fenced, errors.RedisUnavailable):
            async with self._turn:
                await self._admission.reload(
                    one.ruling, self._slot, one.attempt_id, one.account_id, None
                )

    async def _show(self, one: "_Change") -> AccountDetails:
        """Show Redis what PostgreSQL has now, until it has heard it or the epoch is over.

        Past the deadline the reaper does it. Until then the account admits nothing, so the change
        is in force either way.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                details = await self._read(one.account_id)
                row = await self._store.account_to_load(one.account_id)
                errors.require(row is not None, "an account is gone that was changed just now")
                async with self._turn:
                    await self._admission.reload(
                        one.ruling, self._slot, one.attempt_id, one.account_id, row
                    )
            except Fenced:
                return details
            except errors.RedisUnavailable:
                if await self._mode.fall_back(one.ruling.epoch) or loop.time() >= one.deadline:
                    return details
            except errors.PostgresUnavailable as exc:
                if loop.time() >= one.deadline:
                    raise errors.ChangeOutcomeUnknown from exc
            else:
                return details
            await asyncio.sleep(_PAUSE_LONGEST_S)


class _Change:
    """One attempt to change one account under one ruling."""

    def __init__(
        self,
        ruling: Ruling,
        attempt_id: int,
        before: AccountDetails,
        change: AccountChange,
        limit_minor: int | None,
        deadline: float,
    ) -> None:
        self.ruling = ruling
        self.attempt_id = attempt_id
        self.account_id = before.account.account_id
        self.limit_minor = limit_minor
        self.said = SaidChange(ruling, attempt_id, self.account_id, change, limit_minor)
        self.deadline = deadline
        self._exponent = before.account.exponent

    def refusal(self, outcome: ChangeOutcome) -> errors.Rejected:
        """Say why PostgreSQL refuses the change, with the figures of its decision."""
        balance = decimal_text(outcome.balance_minor, self._exponent)
        figures = {
            "requested": decimal_text(self.limit_minor or 0, self._exponent),
            "available": decimal_text(outcome.balance_minor + outcome.limit_minor, self._exponent),
        }
        refusals: dict[Changed, errors.Rejected] = {
            Changed.ACCOUNT_NOT_FOUND: errors.AccountNotFound(pointer="/account_id"),
            Changed.PRECONDITION_FAILED: errors.PreconditionFailed(),
            Changed.ACCOUNT_CLOSED: errors.AccountClosed(),
            Changed.ACCOUNT_NOT_EMPTY: errors.AccountNotEmpty(pointer="/closed", balance=balance),
            Changed.LIMIT_IN_USE: errors.LimitInUse(pointer="/credit_limit", **figures),
            Changed.BALANCE_LIMIT_EXCEEDED: errors.BalanceLimitExceeded(
                pointer="/credit_limit", **figures
            ),
        }
        return refusals[outcome.word]


def _holds(record: FlightRecord, one: _Change, key: str) -> bool:
    """Tell whether an attempt has something of an account in flight, or changes it.

    One that was refused all it asked of the account names it as well, and may be asked again and
    again while it waits for the change.
    """
    if record.is_change:
        return key in record.keys
    return any(flight.account_id == one.account_id for flight in record.flights)


def _limit_minor(before: AccountDetails, change: AccountChange) -> int | None:
    if change.credit_limit is None:
        return None
    try:
        return minor_units(change.credit_limit, before.account.exponent)
    except errors.Rejected as error:
        error.pointer = "/credit_limit"
        raise


def _is_answered(before: AccountDetails, change: AccountChange, limit_minor: int | None) -> bool:
    """Tell whether nothing would change; raises what can be refused without stopping the account.

    PostgreSQL decides it anew where it is not.
    """
    versions = change.config_versions
    if versions is not None and before.config_version not in versions:
        raise errors.PreconditionFailed
    is_same = (
        limit_minor in (None, before.credit_limit_minor)
        and change.frozen in (None, before.frozen)
        and change.metadata in (None, before.metadata)
        and (before.closed or not change.closed)
    )
    if before.closed and not is_same:
        raise errors.AccountClosed
    return is_same
