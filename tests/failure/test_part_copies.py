"""Many copies of bulk requests at once, over two instances."""

import asyncio
import contextlib
import random
from typing import Any
from uuid import UUID

import pytest

from app import errors
from app.bootstrap import Services
from app.ledger.model import Acceptance, TransactionRequest
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, pipeline_of
from tests.failure.parts import codes, entries, mixed, said, send, settled_down
from tests.failure.proxy import ADMIT, CONFIRM
from tests.integration.test_controls import CONTROL
from tests.integration.test_transactions import request


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_copies_over_two_instances_at_once_get_one_answer(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    atomic: bool,
) -> None:
    """There is enough for one copy and not for two."""
    count = 1_000
    await open_account("A", "1000.00")
    await open_account("B", "700.00")
    asked = [request("AB"[number % 2], "1") for number in range(count)]
    calls = [send(each, *asked, atomic=atomic) for each in (services, other) * 3]
    answers = await asyncio.gather(*calls)
    assert {str(said(each)) for each in answers} == {str(said(answers[0]))}
    assert codes(answers[0]) == ["accepted"] * count
    assert await entries(database) == count
    await settled_down(services, redis_client)


async def test_atomic_requests_that_share_names_over_two_instances_move_each_name_once(
    services: Services, other: Services, open_account: OpenAccount, database: Any, redis_client: Any
) -> None:
    """Chains of three names that overlap: of two neighbours at most one can be accepted."""
    await open_account("A", "1000.00")
    await open_account("B", "1000.00")

    def chain(first: int) -> list[TransactionRequest]:
        names = [f"x{number % 20}" for number in range(first, first + 3)]
        random.Random(first).shuffle(names)
        return [request("AB"[int(name[1:]) % 2], "1", idempotency_key=name) for name in names]

    calls = [
        send(each, *chain(first), key=None, atomic=True)
        for first in range(0, 20, 2)
        for each in (services, other)
    ]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 25)
    told = [
        (answer.transaction.reference, answer.transaction.transaction_id)
        for each in answers
        for answer in each
        if isinstance(answer, Acceptance)
    ]
    assert {code for each in answers for code in codes(each)} <= {"accepted", "others_refused"}
    assert len({number for _, number in told}) == await entries(database)
    names = await database.fetchval(
        "SELECT count(*) FROM idempotency_keys WHERE name LIKE 'key:x%'"
    )
    assert names == await entries(database)
    await settled_down(services, redis_client)


class Storm:
    """Copies of the same requests to two instances, while who decides changes and replies are lost.

    Keeps every answer that may not change any more.
    """

    def __init__(self, seed: int, instances: tuple[Services, ...]) -> None:
        self.numbers = random.Random(seed)
        self.instances = instances
        self.asked = {f"k{n}": self._drawn(f"k{n}") for n in range(24)}
        self.answers: dict[str, list[Any]] = {key: [] for key in self.asked}
        self.over = False

    def _drawn(self, key: str) -> tuple[bool, list[TransactionRequest]]:
        is_atomic = self.numbers.random() < 0.4
        asked = mixed(self.numbers, self.numbers.choice((2, 5, 30)))
        return is_atomic, [each for each in asked if each.account_id not in "XY"] or asked[:1]

    async def copy(self, key: str) -> bool:
        """Send one copy; True when its answer is final."""
        is_atomic, asked = self.asked[key]
        instance = self.numbers.choice(self.instances)
        try:
            answers = await send(instance, *asked, key=key, atomic=is_atomic)
        except errors.Unavailable:
            return False
        if any(isinstance(each, errors.LedgerError) and each.retryable for each in answers):
            return False
        assert not any(isinstance(each, errors.InvariantViolation) for each in answers), answers
        if any(isinstance(each, Acceptance) for each in answers):
            self.answers[key].append(said(answers))
            return True
        return True

    async def client(self) -> None:
        while not self.over:
            await self.copy(self.numbers.choice(list(self.asked)))
            await asyncio.sleep(0)


@pytest.mark.reliability(breaker_timeout_ms=200)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_copies_in_a_storm_are_told_one_thing_and_every_cent_is_where_it_was_said_to_be(
    behind: Behind, other: Services, database: Any, open_account: OpenAccount, seed: int
) -> None:
    for name, opening in (("B", "9.00"), ("C", "1.00"), ("D", "0")):
        await open_account(name, opening)
    opened = {"A": 1_000, "B": 900, "C": 100, "D": 0}
    storm = Storm(seed, (behind.services, other))
    clients = [asyncio.create_task(storm.client()) for _ in range(8)]
    keeper = pipeline_of(other)._mode
    for number in range(12):
        await asyncio.sleep(0.1)
        if number % 4 == 0:
            await database.execute(CONTROL, "force_postgres")
        elif number % 4 == 2:
            await database.execute(CONTROL, "automatic")
            with contextlib.suppress(errors.LedgerError):
                await keeper.open_redis((await keeper.read_ruling()).epoch, "storm")
        else:
            marker = storm.numbers.choice((b"part:", ADMIT, CONFIRM))
            (behind.postgres if marker == b"part:" else behind.redis).lose_reply_to(marker)
    storm.over = True
    await asyncio.wait_for(asyncio.gather(*clients), 20)
    accepted: dict[str, int] = dict.fromkeys(opened, 0)
    for key in storm.asked:

        async def is_final(key: str = key) -> bool:
            return await storm.copy(key)

        await eventually(is_final)
        told = {str(each) for each in storm.answers[key]}
        assert len(told) <= 1, f"{key} was told different things"
        for line in storm.answers[key][-1] if told else ():
            if isinstance(line[0], UUID):
                accepted[line[1]] += line[2]
    assert sum(map(bool, storm.answers.values())) > 5
    for name, opening in opened.items():
        balance = await other.ledger.balance(name)
        assert balance.available_minor == opening + accepted[name]
        assert balance.available_minor >= 0
    verification = await other.ledger.verify()
    assert verification.is_clean, verification.mismatches
