"""Admission in Redis: the only module that calls the money scripts.

A lost reply is answered by sending the same call again: what the attempt has reserved counts as
reserved, so it is applied at most once. The client itself never retries.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from app import errors, limits
from app.infra.redis import REDIS_ERRORS
from app.infra.resilience import Breaker, BreakerOpen
from app.ledger.codes import Admitted, Inspected, Loaded, Refreshed, Script
from app.ledger.item import Item
from app.ledger.keys import account_key, epoch_key, flight_key
from app.ledger.mode import Ruling
from app.ledger.store import SHARD

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.scripts import LuaScripts

JOURNALED = "journaled"
RELEASED = "released"


class Fenced(Exception):
    """Another epoch rules, or this is not the Redis it was opened for."""


class LostData(Exception):
    """Redis lost an account inside the epoch, so its reservations are gone too."""


class Decision(NamedTuple):
    """What Redis said of one item; `available_minor` only where it refused."""

    word: Admitted
    available_minor: int | None


class SettledLine(NamedTuple):
    """What a settlement did to one account between two of its versions."""

    account_id: str
    version_before: int
    version_after: int
    settled_after_minor: int
    debit_minor: int
    credit_minor: int


class Slot:
    """One place for a batch in flight; it numbers its calls so that late copies do nothing."""

    def __init__(self, name: str) -> None:
        """`name` must be unique among all slots of all processes, for ever."""
        self.name = name
        self.number = 0
        self.owes: errors.LedgerError | None = None

    def next_number(self) -> str:
        """Number the next call."""
        self.number += 1
        return str(self.number)


class Admission:
    """The script calls of one shard."""

    def __init__(self, redis: "Redis", scripts: "LuaScripts", breaker: Breaker) -> None:
        """Use a client without retries, and scripts that are bound to it."""
        self._redis = redis
        self._scripts = scripts
        self._breaker = breaker

    async def _send(
        self, name: str, keys: list[str], arguments: list[str], slot: Slot | None = None
    ) -> Any:
        """Send a call whose repetition is harmless, a bounded number of times.

        A slot's call gets a number for every sending, so a copy that was delayed is an old one.
        """
        failure: BaseException | None = None
        for _ in range(limits.REDIS_SENDS_MAX):
            numbered = arguments
            if slot is not None:
                numbered = [arguments[0], slot.name, slot.next_number(), *arguments[1:]]
            try:
                with self._breaker.guard():
                    return await self._scripts.call(name, keys, numbered)
            except BreakerOpen as exc:
                failure = failure or exc
                break
            except REDIS_ERRORS as exc:
                failure = exc
        kind = "refuses" if isinstance(failure, RedisError) else "does not answer"
        raise errors.RedisUnavailable(f"Redis {kind}: {failure}") from failure

    async def admit(
        self, ruling: Ruling, slot: Slot, attempt_id: int, items: Sequence[Item]
    ) -> list[tuple[Item, Decision]]:
        """Reserve what can be reserved, at most once for each item of the attempt.

        Raises `Fenced`, `LostData`, or `RedisUnavailable` with the outcome unknown.
        """
        groups = _grouped(items)
        keys = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch)]
        arguments = [ruling.text, str(attempt_id), str(limits.BALANCE_MINOR_MAX)]
        for account_id, members in groups.items():
            keys.append(account_key(SHARD, ruling.epoch, account_id))
            arguments.append(str(len(members)))
            for item in members:
                arguments += [item.name, str(item.change_minor)]
        call_word, words, availables = await self._send("admit", keys, arguments, slot)
        _check(call_word)
        ordered = [item for members in groups.values() for item in members]
        decided = [
            (item, Decision(Admitted(word), int(available) if available else None))
            for item, word, available in zip(ordered, words, availables, strict=True)
        ]
        if any(decision.word is Admitted.VANISHED for _, decision in decided):
            raise LostData
        return decided

    async def confirm(
        self,
        ruling: Ruling,
        slot: Slot,
        attempt_id: int,
        outcomes: Iterable[tuple[Item, str]],
        *,
        whole: bool = True,
    ) -> None:
        """Say what became of an attempt's reservations; harmless to repeat.

        `whole` says that these are all it has. Raises `Fenced` when the reservations are gone
        anyway, or `RedisUnavailable`.
        """
        named = [(item.account.account_id, item.name, outcome) for item, outcome in outcomes]
        if named:
            extent = "whole" if whole else "part"
            await self.confirm_named(ruling, slot, attempt_id, named, extent)

    async def confirm_named(
        self,
        ruling: Ruling,
        slot: Slot,
        attempt_id: int,
        outcomes: Iterable[tuple[str, str, str]],
        extent: str,
    ) -> None:
        """Confirm by account id, reservation name and outcome; see `confirm`.

        `extent` is "whole", "part", or what `in_flight` said of the attempt if that must still
        be so for it to be whole.
        """
        groups: dict[str, list[str]] = {}
        for account_id, name, outcome in outcomes:
            groups.setdefault(account_id, []).extend((name, outcome))
        keys = [epoch_key(SHARD, ruling.epoch), flight_key(SHARD, ruling.epoch)]
        arguments = [ruling.text, str(attempt_id), extent]
        for account_id, pairs in groups.items():
            keys.append(account_key(SHARD, ruling.epoch, account_id))
            arguments += [str(len(pairs) // 2), *pairs]
        _check(await self._send("confirm", keys, arguments, slot))

    async def load(self, ruling: Ruling, accounts: Iterable[Mapping[str, Any]]) -> None:
        """Bring accounts into the epoch from one snapshot read after the epoch was learnt."""
        keys, arguments = [epoch_key(SHARD, ruling.epoch)], [ruling.text]
        for account in accounts:
            keys.append(account_key(SHARD, ruling.epoch, account["account_id"]))
            arguments += [account["available_minor"], account["settled_minor"], account["version"]]
            arguments += [account["debit_minor"], account["credit_minor"]]
        call_word, words = await self._send("load", keys, arguments)
        _check(call_word)
        if Loaded.VANISHED in words:
            raise LostData

    async def in_flight(self, ruling: Ruling) -> dict[int, str]:
        """Read the attempts in flight, each with the keys of the accounts it may hold something on.

        Raises `RedisUnavailable`.
        """
        try:
            held = await self._redis.hgetall(flight_key(SHARD, ruling.epoch))
        except REDIS_ERRORS as exc:
            raise errors.RedisUnavailable(f"Redis does not answer: {exc}") from exc
        return {int(attempt_id): str(keys) for attempt_id, keys in held.items()}

    async def inspect(
        self, ruling: Ruling, account_ids: Sequence[str]
    ) -> dict[str, tuple[Inspected, dict[str, str]]]:
        """Read accounts as they are at one instant: whether each is there, and its fields."""
        keys = [epoch_key(SHARD, ruling.epoch)]
        keys += [account_key(SHARD, ruling.epoch, account_id) for account_id in account_ids]
        call_word, words, found = await self._send("inspect", keys, [ruling.text])
        _check(call_word)
        return {
            account_id: (Inspected(word), dict(zip(fields[::2], fields[1::2], strict=True)))
            for account_id, word, fields in zip(account_ids, words, found, strict=True)
        }

    async def refresh(
        self, ruling: Ruling, lines: Sequence[SettledLine]
    ) -> list[tuple[SettledLine, int]]:
        """Show settlements in Redis; returns lines that came too early, with the version there."""
        keys, arguments = [epoch_key(SHARD, ruling.epoch)], [ruling.text]
        for line in lines:
            keys.append(account_key(SHARD, ruling.epoch, line.account_id))
            arguments += [str(figure) for figure in line[1:]]
        call_word, words, versions = await self._send("refresh", keys, arguments)
        _check(call_word)
        return [
            (line, int(version))
            for line, word, version in zip(lines, words, versions, strict=True)
            if word == Refreshed.BEHIND
        ]


def _grouped(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Group items by account, keeping the order of requests inside each account."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.account.account_id, []).append(item)
    return groups


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
    repeatable = {
        item.account.account_no for item in admitted if item.identities and not item.is_credit
    }
    certain, doubtful = [], []
    for item, decision in refused:
        is_short = decision.word is Admitted.INSUFFICIENT_AVAILABLE
        in_doubt = is_short and item.account.account_no in repeatable
        if in_doubt or decision.word in (Admitted.IN_FLIGHT, Admitted.CREDIT_IN_FLIGHT):
            doubtful.append((item, decision))
        else:
            certain.append((item, decision))
    return certain, doubtful
