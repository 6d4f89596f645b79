"""Somebody who freezes accounts and moves their limits while the others use them.

An account is changed by one task only, each time for the version that was read before and with
metadata that differ; so a change whose answer got lost cannot come about after a later one was
answered, and between an answer and the next request it is known what the account takes.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.chaos.asking import Clock
from tests.chaos.bodies import major
from tests.chaos.client import HttpClient, Lost, NotSent
from tests.chaos.history import Account, History, Rule, fields_of

LIMIT_CHANGES = 0.3
LIMIT_MAX_MINOR = 4_000
CHANGED_AT_ONCE = 6
FROZEN_S = (0.02, 0.8)
BETWEEN_S = (0.1, 1.5)
PATIENCE_S = (0.3, 2.0, 12.0)
THAW_TRIES_MAX = 60
_RETRY_PAUSE_S = 0.25
_OK = 200


class Changer:
    """Changes accounts through any instance."""

    def __init__(self, urls: dict[str, str], history: History, seed: int, clock: Clock) -> None:
        """Nothing is sent yet."""
        self._urls = list(urls.values())
        self._history = history
        self._seed = seed
        self._clock = clock
        self._turn = 0

    def pick(self, accounts: Sequence[Account]) -> list[Account]:
        """Choose some that are used often, but not the one that is used most."""
        return [account for account in accounts if account.heat == "warm"][:CHANGED_AT_ONCE]

    async def change_always(self, account: Account, is_over: Callable[[], bool]) -> None:
        """Freeze one account and thaw it, again and again; it may be left frozen."""
        rng = random.Random(f"{self._seed}:changes:{account.account_id}")
        while not is_over():
            await asyncio.sleep(rng.uniform(*BETWEEN_S))
            await self._change(account, rng.choice(("debit", "credit", "all")), rng)
            await asyncio.sleep(rng.uniform(*FROZEN_S))
            for _ in range(THAW_TRIES_MAX):
                if await self._change(account, "none", rng) or is_over():
                    break
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def thaw(self, account: Account) -> bool:
        """Let an account take everything again; False when no instance did that in time."""
        rng = random.Random(account.account_id)
        for _ in range(THAW_TRIES_MAX):
            if await self._change(account, "none", rng, has_limit=False):
                return True
            await asyncio.sleep(_RETRY_PAUSE_S)
        return False

    async def _change(
        self, account: Account, frozen: str, rng: random.Random, *, has_limit: bool = True
    ) -> bool:
        """Try once; what is known of the account ends with the request and begins with 200."""
        self._turn += 1
        body: dict[str, Any] = {"frozen": frozen, "metadata": {"turn": str(self._turn)}}
        if has_limit and rng.random() < LIMIT_CHANGES:
            limit_minor = rng.randrange(0, LIMIT_MAX_MINOR)
            body["credit_limit"] = major(limit_minor, account.exponent)
        rules = self._history.rules[account.account_id]
        path = f"/api/v1/accounts/{account.account_id}"
        client = HttpClient(rng.choice(self._urls))
        try:
            read = await client.request("GET", path, max(PATIENCE_S))
            etag = read.headers.get("etag", "")
            rules[-1].until_s = min(rules[-1].until_s, self._clock.now_s)
            patience_s = rng.choice(PATIENCE_S)
            answer = await client.request("PATCH", path, patience_s, body, {"If-Match": etag})
        except (NotSent, Lost):
            return False
        finally:
            client.close()
        if answer.status != _OK:
            return False
        told = fields_of(answer.body)
        is_right = all(told.get(name) == value for name, value in body.items())
        limit = str(told.get("credit_limit"))
        rules.append(Rule(frozen, limit, self._clock.now_s, is_told_right=is_right))
        return True


async def thaw_all(urls: dict[str, str], history: History, clock: Clock) -> list[str]:
    """Thaw every account that was changed; those that could not be."""
    changer = Changer(urls, history, 0, clock)
    accounts = [history.accounts[name] for name, rules in history.rules.items() if len(rules) > 1]
    thawed = await asyncio.gather(*(changer.thaw(account) for account in accounts))
    return [
        account.account_id
        for account, is_thawed in zip(accounts, thawed, strict=True)
        if not is_thawed
    ]
