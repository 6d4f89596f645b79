"""What each request moves: pure arithmetic on its number, so that nothing has to be remembered.

A request's accounts, directions and amounts follow from its number and the run; whoever knows both
can tell later what was asked. Amounts are integers of minor units, debits negative.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from app.kit.money import decimal_text
from tests.drills.load import EXPONENT, TRANSACTION_PATH

HOST = "127.0.0.1"
AMOUNT_MINOR_MAX = 999
DUPLICATES_MAX = 0.5
_BITS = 64
_MASK = (1 << _BITS) - 1
# Odd constants of Weyl sequences: multiples of each spread evenly, and independently of the others.
_SPREAD_KIND, _SPREAD_ACCOUNT = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_SPREAD_AMOUNT, _SPREAD_REPEAT, _SPREAD_KEY = (
    0x165667B19E3779F9,
    0xD6E8FEB86659FD93,
    0xBF58476D1CE4E5B9,
)
_TEMPLATES_AIMED = 2_048
_AMOUNTS_MAX = 16
_HEADER_LINES = "Content-Type: application/json\r\nAccept: application/json\r\n"


class Mix(NamedTuple):
    """What the requests of a run are; `run` begins every idempotency key and is used once."""

    run: str
    accounts: tuple[str, ...]
    credit_share: float = 0.5
    hot_share: float = 0.0
    duplicates: float = 0.0
    repeat_after: int = 1
    batch: int = 0
    random_keys: bool = False

    @property
    def items(self) -> int:
        """How many transactions one request carries."""
        return self.batch or 1


class Requests:
    """The requests of a run, as bytes and as movements."""

    def __init__(self, mix: Mix, host: str = HOST) -> None:
        """Encode everything that can be encoded beforehand."""
        self.mix = mix
        accounts = len(mix.accounts)
        self._credit_below = round(mix.credit_share * (1 << _BITS))
        self._hot_below = round(mix.hot_share * (1 << _BITS))
        self._repeat_below = round(min(mix.duplicates, DUPLICATES_MAX) * (1 << _BITS))
        self._amounts = max(1, min(_AMOUNTS_MAX, _TEMPLATES_AIMED // accounts))
        self._seed = hash_text(mix.run)
        self.path = "/api/v1/transactions" if mix.batch else TRANSACTION_PATH
        self._head = f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\n{_HEADER_LINES}".encode()
        self._bodies = [
            [self._body(account_id, amount_no) for amount_no in range(2 * self._amounts)]
            for account_id in mix.accounts
        ]
        self._tails = [[_with_length(body) for body in bodies] for bodies in self._bodies]

    def message(self, number: int) -> bytes:
        """The bytes of a request; a repetition is the same bytes as what it repeats."""
        origin = self.origin(number)
        if self.mix.batch:
            items = b",".join([self._item(item) for item in self._item_numbers(origin)])
            tail = _with_length(b'{"transactions":[' + items + b"]}")
        else:
            tail = self._tails[self._account(origin)][self._amount_no(origin)]
        return b"%bIdempotency-Key: %b\r\n%b" % (self._head, self.key(origin), tail)

    def body(self, origin: int) -> dict[str, Any]:
        """What a request asks, for asking it again."""
        items = [json.loads(self._item(item)) for item in self._item_numbers(origin)]
        return {"transactions": items} if self.mix.batch else dict(items[0])

    def key(self, origin: int) -> bytes:
        """The idempotency key, in order of sending unless it is to be random."""
        if self.mix.random_keys:
            scattered = (origin * _SPREAD_KEY + self._seed) & _MASK
            return b"%016x-%b" % (scattered, self.mix.run.encode())
        return b"%b-%08x" % (self.mix.run.encode(), origin)

    def origin(self, number: int) -> int:
        """The request that this one repeats, or itself."""
        if not self._is_marked(number):
            return number
        earlier = number - self.mix.repeat_after
        while earlier >= 0 and self._is_marked(earlier):
            earlier -= self.mix.repeat_after
        return earlier if earlier >= 0 else number

    def is_repeated(self, number: int, count: int) -> bool:
        """Tell whether a later one of so many requests repeats this one."""
        later = number + self.mix.repeat_after
        return later < count and not self._is_marked(number) and self._is_marked(later)

    def movements(self, origin: int) -> Iterator[tuple[int, int]]:
        """What a request moves: for each transaction its account's place and the change."""
        for item in self._item_numbers(origin):
            yield self._account(item), self._change_minor(self._amount_no(item))

    def _is_marked(self, number: int) -> bool:
        chance: int = (number * _SPREAD_REPEAT + self._seed) & _MASK
        return chance < self._repeat_below

    def _item_numbers(self, origin: int) -> range:
        return range(origin * self.mix.items, (origin + 1) * self.mix.items)

    def _account(self, item: int) -> int:
        """Equal shares in turns, or the first one by its share and the others by chance."""
        accounts = len(self._bodies)
        if not self._hot_below or accounts == 1:
            return item % accounts
        chance = (item * _SPREAD_ACCOUNT + self._seed) & _MASK
        if chance < self._hot_below:
            return 0
        return 1 + item % (accounts - 1)

    def _amount_no(self, item: int) -> int:
        """Which of an account's bodies: debits come first, then as many credits."""
        amount_no = ((item * _SPREAD_AMOUNT) & _MASK) * self._amounts >> _BITS
        is_credit = ((item * _SPREAD_KIND + self._seed) & _MASK) < self._credit_below
        return amount_no + self._amounts if is_credit else amount_no

    def _change_minor(self, amount_no: int) -> int:
        """Amounts spread over what is allowed, the first of them a cent."""
        step = amount_no % self._amounts
        amount_minor = 1 + step * (AMOUNT_MINOR_MAX - 1) // max(1, self._amounts - 1)
        return amount_minor if amount_no >= self._amounts else -amount_minor

    def _body(self, account_id: str, amount_no: int) -> bytes:
        change_minor = self._change_minor(amount_no)
        kind = "credit" if change_minor > 0 else "debit"
        amount = decimal_text(abs(change_minor), EXPONENT)
        return f'{{"account_id":"{account_id}","amount":"{amount}","type":"{kind}"}}'.encode()

    def _item(self, item: int) -> bytes:
        return self._bodies[self._account(item)][self._amount_no(item)]


def total_changes(
    requests: Requests, accepted: Iterable[int], refused_items: dict[int, frozenset[int]]
) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """Sum accepted requests by account: credits, debits and how many transactions.

    `refused_items` names the transactions of a batch that were not accepted.
    """
    credited, debited, counts = Counter[int](), Counter[int](), Counter[int]()
    nothing: frozenset[int] = frozenset()
    for origin in accepted:
        refused = refused_items.get(origin, nothing)
        for position, (account, change_minor) in enumerate(requests.movements(origin)):
            if position in refused:
                continue
            counts[account] += 1
            if change_minor > 0:
                credited[account] += change_minor
            else:
                debited[account] -= change_minor
    return credited, debited, counts


def hash_text(text: str) -> int:
    """A number for a text, the same in every process."""
    number = 0
    for byte in text.encode():
        number = (number * 257 + byte) * _SPREAD_KIND & _MASK
    return number


def _with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
