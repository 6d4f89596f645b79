"""Admission in Redis: the only module that calls the money scripts.

A lost reply is answered by sending the same call again: what the attempt has reserved counts as
reserved, so it is applied at most once. The client itself never retries.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from app import errors, limits
from app.infra.redis import REDIS_ERRORS
from app.infra.resilience import Breaker, BreakerOpen
from app.kit.ids import AttemptNumbers
from app.ledger.codes import Extent, Inspected, Loaded, Refreshed, Refused, Script, Stopped
from app.ledger.flights import FlightRecord, read_record
from app.ledger.item import Item
from app.ledger.keys import account_key, epoch_key, flight_key
from app.ledger.mode import Ruling
from app.ledger.store import SHARD
from app.ledger.unit import positions_of

if TYPE_CHECKING:
    from app.infra.scripts import LuaScripts

JOURNALED = "journaled"
RELEASED = "released"
CHANGING = "changing"
_BALANCE_MAX = str(limits.BALANCE_MINOR_MAX)


class Fenced(Exception):
    """Another epoch rules, or this is not the Redis it was opened for."""


class LostData(Exception):
    """Redis lost an account inside the epoch, so its reservations are gone too."""


class Decision(NamedTuple):
    """Why an item was refused, and what was available then."""

    word: Refused
    available_minor: int


class Attempt:
    """One attempt of a batch: its id, the bounds of the ids this process may have, the accounts'
    keys it was last sent to Redis with, and whether every item was admitted.
    """

    __slots__ = ("attempt_id", "bounds", "is_whole", "keys")

    def __init__(self, attempts: AttemptNumbers) -> None:
        """Begin before the first sending."""
        self.attempt_id = attempts.draw()
        self.bounds = attempts.bounds
        self.keys: list[str] = []
        self.is_whole = False


class Admittance(NamedTuple):
    """What Redis said of an attempt.

    `admitted` are in the order the attempt's record has them; `others` are the names that other
    processes had in flight at that instant, read only where something was refused; `unloaded` are
    items whose accounts must be loaded first, and then nothing was decided.
    """

    admitted: list[Item]
    refused: list[tuple[Item, Decision]]
    others: frozenset[str]
    unloaded: list[Item]


class SettledLine(NamedTuple):
    """What a settlement did to one account between two of its versions; figures as decimal text."""

    account_id: str
    version_before: str
    version_after: str
    settled_after_minor: str
    debit_minor: str
    credit_minor: str


class Slot:
    """One place for a batch in flight; it numbers its calls so that late copies do nothing."""

    def __init__(self, name: str) -> None:
        """`name` must be unique among all slots of all processes, for ever."""
        self.name = name
        self.number = 0
        self.journaled = 0  # an attempt of debits that Redis is told of with the next call
        self.owes: errors.LedgerError | None = None

    def next_number(self) -> str:
        """Number the next call."""
        self.number += 1
        return str(self.number)


class Admission:
    """The script calls of one shard."""

    def __init__(self, scripts: "LuaScripts", breaker: Breaker) -> None:
        """Use scripts whose client never retries."""
        self._scripts = scripts
        self._breaker = breaker

    async def _send(
        self, name: str, keys: list[str], arguments: list[str], slot: Slot | None = None
    ) -> Any:
        """Send a call whose repetition is harmless, a bounded number of times.

        A slot's call gets a number for every sending, so a copy that was delayed is an old one.
        The first sending's failure counts when the second fails as well: where one connection is
        lost, every call on it fails.
        """
        failure: Exception | None = None
        for sending in range(limits.REDIS_SENDS_MAX):
            numbered = arguments
            if slot is not None:
                numbered = [arguments[0], slot.name, slot.next_number(), *arguments[1:]]
            try:
                with self._breaker.guard() if sending else self._breaker.forgive():
                    return await self._scripts.call(name, keys, numbered)
            except BreakerOpen as exc:
                failure = failure or exc
                break
            except REDIS_ERRORS as exc:
                if sending == 1 and failure is not None:
                    self._breaker.count(failure)
                failure = exc
        kind = "refuses" if isinstance(failure, RedisError) else "does not answer"
        raise errors.RedisUnavailable(f"Redis {kind}: {failure}") from failure

    async def admit(
        self,
        ruling: Ruling,
        slot: Slot,
        attempt: Attempt,
        items: Sequence[Item],
        extent: Extent = Extent.EACH,
    ) -> Admittance:
        """Reserve what can be reserved, at most once in an attempt.

        Raises `Fenced`, `LostData`, or `RedisUnavailable` with the outcome unknown.
        """
        groups, script, together = _grouped(items), "admit", str(extent)
        placed = items
        if len(groups) > 1:
            placed = [item for members in groups.values() for item in members]
        if extent is Extent.GROUPS:
            script, together = "admit_groups", positions_of(items, placed)
        names = " ".join([item.name for item in placed])
        bounds = map(str, (*attempt.bounds, slot.journaled))
        arguments = [ruling.text, str(attempt.attempt_id), _BALANCE_MAX, together, *bounds, names]
        if extent is not Extent.GROUPS:
            arguments.append(_expectations(placed))
        for members in groups.values():
            arguments.append(str(len(members)))
            arguments += [str(item.change_minor) for item in members]
        attempt.keys = [account_key(SHARD, ruling.epoch, account_id) for account_id in groups]
        keys = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch), *attempt.keys]
        call_word, positions, words, availables, others = await self._send(
            script, keys, arguments, slot
        )
        if call_word in (Script.DONE, Script.UNLOADED):
            slot.journaled = 0
        if call_word == Script.UNLOADED:
            accounts = list(groups.values())
            unloaded = [item for position in positions for item in accounts[position - 1]]
            return Admittance([], [], frozenset(), unloaded)
        if call_word == Script.VANISHED:
            raise LostData
        _check(call_word)
        attempt.is_whole = not positions
        if not positions:
            return Admittance(list(placed), [], frozenset(), [])
        # Of a refused group there is one item that says why, and stands for the others.
        refused = [
            (placed[position - 1], Decision(Refused(word), int(available)))
            for position, word, available in zip(positions, words, availables, strict=True)
            if word != Refused.GROUP_REFUSED
        ]
        out = {position - 1 for position in positions}
        admitted = [] if extent is Extent.ALL else [i for n, i in enumerate(placed) if n not in out]
        return Admittance(
            admitted, refused, frozenset(name for names in others for name in names.split(" ")), []
        )

    async def confirm(
        self, ruling: Ruling, slot: Slot, attempt: Attempt, outcomes: Sequence[tuple[Item, str]]
    ) -> None:
        """Say what became of the items that were admitted, all of them and in their order.

        Where no balance changes, Redis is told with the slot's next call; but at once where others
        were refused, for until then their names count as in flight.

        Harmless to repeat. Raises `Fenced` when the reservations are gone anyway, or
        `RedisUnavailable`.
        """
        released = [number for number, (_, outcome) in enumerate(outcomes) if outcome == RELEASED]
        is_credited = any(item.is_credit for item, _ in outcomes)
        if released or is_credited or slot.journaled or not attempt.is_whole:
            attempt_id, keys = attempt.attempt_id, attempt.keys
            await self.confirm_record(ruling, slot, attempt_id, keys, JOURNALED, released)
        else:
            slot.journaled = attempt.attempt_id

    async def confirm_left(self, ruling: Ruling, slot: Slot) -> None:
        """Tell Redis what was left for a next call that does not come; see `confirm`."""
        if slot.journaled:
            await self.confirm_record(ruling, slot, slot.journaled, [], JOURNALED, [])
            slot.journaled = 0

    async def release(self, ruling: Ruling, slot: Slot, attempt: Attempt) -> None:
        """Give back whatever an attempt has reserved, if anything; see `confirm`."""
        await self.confirm_record(ruling, slot, attempt.attempt_id, attempt.keys, RELEASED, [])

    async def confirm_record(
        self,
        ruling: Ruling,
        slot: Slot,
        attempt_id: int,
        keys: Iterable[str],
        outcome: str,
        others: Iterable[int],
    ) -> None:
        """Say what became of an attempt by its record's keys, or without keys where no balance
        changes; `others` are the numbers of items that have the other outcome.
        """
        first = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch)]
        arguments = [ruling.text, str(attempt_id), outcome, *map(str, others)]
        _check(await self._send("confirm", [*first, *keys], arguments, slot))

    async def load(self, ruling: Ruling, accounts: Iterable[Mapping[str, Any]]) -> None:
        """Bring accounts into the epoch from one snapshot read after the epoch was learnt."""
        keys, arguments = [epoch_key(SHARD, ruling.epoch)], [ruling.text]
        for account in accounts:
            keys.append(account_key(SHARD, ruling.epoch, account["account_id"]))
            arguments += [account["available_minor"], account["settled_minor"], account["version"]]
            arguments += [account["debit_minor"], account["credit_minor"], account["stop"]]
            arguments.append(account["entries"])
        call_word, words = await self._send("load", keys, arguments)
        _check(call_word)
        if Loaded.VANISHED in words:
            raise LostData

    async def stop(self, ruling: Ruling, slot: Slot, attempt_id: int, account_id: str) -> bool:
        """Let an account admit nothing while an attempt changes it; False when another one does.

        Harmless to repeat. Raises `Fenced`, `LostData`, or `RedisUnavailable` with the outcome
        unknown.
        """
        keys = _account_keys(ruling, account_id)
        call_word = await self._send("stop", keys, [ruling.text, str(attempt_id)], slot)
        if call_word == Stopped.CHANGING:
            return False
        if call_word in (Script.VANISHED, Script.UNLOADED):
            raise LostData
        _check(call_word)
        return True

    async def reload(
        self,
        ruling: Ruling,
        slot: Slot,
        attempt_id: int,
        account_id: str,
        account: Mapping[str, Any] | None,
    ) -> None:
        """End what `stop` began: show what PostgreSQL has now, or, without that, undo it.

        Harmless to repeat. Raises `Fenced` when the epoch is over anyway, or `RedisUnavailable`.
        """
        keys = _account_keys(ruling, account_id)
        shown = (
            ("undone", "", "")
            if account is None
            else ("decided", account["available_minor"], account["stop"])
        )
        _check(await self._send("reload", keys, [ruling.text, str(attempt_id), *shown], slot))

    async def in_flight(
        self, ruling: Ruling, attempt_ids: Collection[int] | None = None
    ) -> list[FlightRecord]:
        """Read the attempts in flight, all of them or those that are asked for.

        Raises `Fenced` or `RedisUnavailable`.
        """
        if attempt_ids is not None and not attempt_ids:
            return []
        keys = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch)]
        arguments = [ruling.text, *map(str, attempt_ids or ())]
        call_word, held = await self._send("flights", keys, arguments)
        _check(call_word)
        return _records(held)

    async def inspect(
        self, ruling: Ruling, account_ids: Sequence[str]
    ) -> tuple[dict[str, tuple[Inspected, dict[str, str]]], list[FlightRecord]]:
        """Read accounts and all attempts in flight as they are at one instant: whether each account
        is there, and its fields.
        """
        keys = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch)]
        keys += [account_key(SHARD, ruling.epoch, account_id) for account_id in account_ids]
        call_word, words, found, held = await self._send("inspect", keys, [ruling.text])
        _check(call_word)
        inspected = {
            account_id: (Inspected(word), dict(zip(fields[::2], fields[1::2], strict=True)))
            for account_id, word, fields in zip(account_ids, words, found, strict=True)
        }
        return inspected, _records(held)

    async def refresh(self, ruling: Ruling, lines: Sequence[SettledLine]) -> list[tuple[int, str]]:
        """Show settlements in Redis; returns the positions of lines that came too early, each with
        the version there.
        """
        keys, arguments = [epoch_key(SHARD, ruling.epoch)], [ruling.text]
        for line in lines:
            keys.append(account_key(SHARD, ruling.epoch, line.account_id))
            arguments += line[1:]
        call_word, words, versions = await self._send("refresh", keys, arguments)
        _check(call_word)
        return [
            (position, version)
            for position, (word, version) in enumerate(zip(words, versions, strict=True))
            if word == Refreshed.BEHIND
        ]


def _account_keys(ruling: Ruling, account_id: str) -> list[str]:
    """The keys of what is done to one account."""
    return [
        epoch_key(SHARD, ruling.epoch),
        flight_key(SHARD, ruling.epoch),
        account_key(SHARD, ruling.epoch, account_id),
    ]


def _records(held: Sequence[str]) -> list[FlightRecord]:
    attempts = zip(held[::2], held[1::2], strict=True)
    return [read_record(int(number), text) for number, text in attempts]


def _grouped(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Group items by account, keeping the order of requests inside each account."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.account.account_id, []).append(item)
    return groups


def _expectations(items: Sequence[Item]) -> str:
    """Say what items expect of their accounts, as `admit` takes it."""
    expecting = [(n, item.expected) for n, item in enumerate(items, 1) if item.expected is not None]
    return ";".join(
        [
            f"{position}:{'' if version is None else version}"
            f":{'' if available is None else available}"
            for position, (version, available) in expecting
        ]
    )


def _check(call_word: str) -> None:
    if call_word == Script.FENCED:
        raise Fenced
    if call_word != Script.DONE:
        raise errors.InvariantViolation(f"a slot's newest call was answered '{call_word}'")


def split_refusals(
    refused: list[tuple[Item, Decision]], admitted: list[Item]
) -> tuple[list[tuple[Item, Decision]], list[tuple[Item, Decision]]]:
    """Tell refusals that stand from those to look at again when the batch is journaled.

    A repetition of an accepted debit reserves its amount until the journal finds it out, and may
    be all that another request of the batch is short of.
    """
    if not refused:
        return [], []
    repeatable = {
        item.account.account_no for item in admitted if item.identities and not item.is_credit
    }
    certain, doubtful = [], []
    for item, decision in refused:
        is_short = decision.word is Refused.INSUFFICIENT_AVAILABLE
        in_doubt = is_short and item.account.account_no in repeatable
        if in_doubt or decision.word is Refused.CREDIT_IN_FLIGHT:
            doubtful.append((item, decision))
        else:
            certain.append((item, decision))
    return certain, doubtful
