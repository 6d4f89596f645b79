"""What a run was promised: which requests count as accepted, and what they add up to."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from bench.load.figures import all_requests
from bench.load.ledger import Ledger, LedgerRefused
from bench.load.mix import Requests, total_changes
from bench.load.record import Record, is_accepted_word, is_refusal_word, is_unknown_word

_CREATED, _OK = 201, 200
_RESOLVE_TIMEOUT_S = 60.0


class Promised(NamedTuple):
    """What clients were told of a run, by the request they first asked with."""

    accepted: bytes
    refused: tuple[int, ...]
    unknown: tuple[int, ...]
    refused_items: dict[int, frozenset[int]]
    contradictions: tuple[str, ...]
    contradiction_count: int
    replay_count: int

    @property
    def accepted_numbers(self) -> list[int]:
        """The requests that were accepted, by whichever of their sendings."""
        return [number for number, told in enumerate(self.accepted) if told]


class Change(NamedTuple):
    """What one account was promised, in minor units."""

    credits_minor: int = 0
    debits_minor: int = 0
    transactions: int = 0

    @property
    def change_minor(self) -> int:
        """By how much the account's balance moves."""
        return self.credits_minor - self.debits_minor


def promised_by(records: Sequence[Record], requests: Requests, count: int) -> Promised:
    """Gather what the sending processes were told about so many requests.

    A request is unknown when some sending of it may have been applied and none was accepted.
    """
    accepted, refused, unknown = bytearray(count), [], set[int]()
    for request in all_requests(records):
        origin = requests.origin(request.number)
        if is_accepted_word(request.word):
            accepted[origin] = 1
        elif is_unknown_word(request.word):
            unknown.add(origin)
        elif is_refusal_word(request.word):
            refused.append(origin)
    maybe = {origin for record in records for origin in record.unknown_items}
    maybe |= {origin for origin in unknown if not accepted[origin]}
    return Promised(
        bytes(accepted),
        tuple(origin for origin in refused if not accepted[origin] and origin not in maybe),
        tuple(sorted(maybe)),
        {key: items for record in records for key, items in record.refused_items.items()},
        tuple(text for record in records for text in record.contradictions),
        sum(record.contradiction_count for record in records),
        sum(record.replay_count for record in records),
    )


async def resolve(promised: Promised, requests: Requests, ledger: Ledger) -> Promised:
    """Send what is unknown again under its key until it is decided, a bounded time for all of it.

    What could not be decided stays unknown.
    """
    deadline = asyncio.get_running_loop().time() + _RESOLVE_TIMEOUT_S
    accepted, refused_items = bytearray(promised.accepted), dict(promised.refused_items)
    left: list[int] = []

    async def decide(origin: int) -> None:
        body, key = requests.body(origin), requests.key(origin).decode()
        remaining_s = deadline - asyncio.get_running_loop().time()
        try:
            if remaining_s <= 0:
                raise LedgerRefused("no time is left")
            answer = await ledger.decide(requests.path, body, key, remaining_s)
        except LedgerRefused:
            left.append(origin)
            return
        accepted[origin] = answer.status in (_CREATED, _OK)
        results = answer.body.get("results", [])
        refused_items[origin] = frozenset(
            place for place, item in enumerate(results) if not item["success"]
        )

    await ledger.for_each(promised.unknown, decide)
    return promised._replace(
        accepted=bytes(accepted), unknown=tuple(sorted(left)), refused_items=refused_items
    )


def changes_of(promised: Promised, requests: Requests) -> dict[str, Change]:
    """What each account was promised; accounts that were promised nothing are there too."""
    credited, debited, counts = total_changes(
        requests, promised.accepted_numbers, promised.refused_items
    )
    return {
        account_id: Change(credited[place], debited[place], counts[place])
        for place, account_id in enumerate(requests.mix.accounts)
    }
