"""A Hypothesis state machine: the real ledger and the reference agree after every step.

Steps are postings, repetitions, changes of limits, freezes, closings, settlements, switches between
Redis and PostgreSQL, restarts of the service, flushes of Redis and lost keys; after each the
invariants of a ledger are checked on PostgreSQL and on Redis, and the books are verified.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import redis as redis_sync
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app import errors
from app.bootstrap import Services, open_services, open_worker_services
from app.kit.money import DecimalText, decimal_text, parse_amount
from app.ledger.codes import Direction, Frozen, Mode
from app.ledger.model import AccountChange, AccountRequest, TransactionRequest
from app.settings import Settings
from tests.conformance.engines import (
    absolute,
    end,
    end_in_reference,
    place,
    post,
    post_group,
    reverse,
)
from tests.conformance.programs import Step
from tests.conformance.reference import AMOUNT_MAX, Reference
from tests.failure.conftest import pipeline_of

ACCOUNTS = ("A", "B", "C")
KEYS = st.sampled_from([f"k{number}" for number in range(12)])
AMOUNTS = st.one_of(
    st.integers(1, 300),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, AMOUNT_MAX - 1, AMOUNT_MAX]),
    st.integers(1, AMOUNT_MAX),
)
POSTINGS = st.tuples(st.sampled_from(ACCOUNTS), AMOUNTS, st.sampled_from([-1, 1]), KEYS)


class LedgerMachine(RuleBasedStateMachine):
    """Runs each step on the ledger and on the reference. Subclassed with the servers' settings."""

    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.reference = Reference()
        self.redis = redis_sync.Redis.from_url(self.settings.redis.url, decode_responses=True)
        self.redis.flushall()
        self.services = self.run(self.start())

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(step, 30))

    async def start(self) -> Services:
        self.connection = await asyncpg.connect(self.settings.postgres.url)
        await self.connection.execute(
            "SET session_replication_role = replica;"
            " DELETE FROM hold_acts; DELETE FROM holds;"
            " DELETE FROM journal_entries; DELETE FROM idempotency_keys;"
            " DELETE FROM settlement_lines; DELETE FROM journal_batches; DELETE FROM settlements;"
            " DELETE FROM accounts; SET session_replication_role = origin"
        )
        self.worker = await self.stack.enter_async_context(open_worker_services(self.settings))
        return await self.stack.enter_async_context(open_services(self.settings))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.run(self.connection.close())
        self.redis.close()
        self.loop.close()

    @initialize(openings=st.tuples(*[st.integers(0, 500)] * 3), limit=st.sampled_from([0, 50]))
    def open_accounts(self, openings: tuple[int, ...], limit: int) -> None:
        for account_id, opening in zip(ACCOUNTS, openings, strict=True):
            request = AccountRequest(
                account_id=account_id,
                currency="USD",
                exponent=2,
                opening_minor=opening,
                credit_limit_minor=limit,
            )
            self.run(self.services.ledger.open_account(request))
            self.reference.open(account_id, opening, limit)

    async def post(self, account_id: str, change: int, key: str) -> str:
        request = TransactionRequest(
            account_id=account_id,
            amount=parse_amount(decimal_text(abs(change), 2)),
            direction=Direction.CREDIT if change > 0 else Direction.DEBIT,
            idempotency_key=key,
        )
        try:
            acceptance = await self.services.ledger.post_transaction(request)
        except errors.Rejected as error:
            return error.code
        return "replayed" if acceptance.replayed else "accepted"

    @rule(posting=POSTINGS)
    def post_one(self, posting: tuple[str, int, int, str]) -> None:
        account_id, amount, sign, key = posting
        answer = self.run(self.post(account_id, sign * amount, key))
        assert answer == self.reference.post(account_id, sign * amount, key)

    @rule(
        posting=POSTINGS,
        version=st.sampled_from([None, 0, 0, 1]),
        available=st.sampled_from([None, 0, -1, 1]),
    )
    def post_what_expects(
        self, posting: tuple[str, int, int, str], version: int | None, available: int | None
    ) -> None:
        account_id, amount, sign, key = posting
        wanted = absolute(self.reference, account_id, (version, available))
        step = Step(account_id, sign * amount, key, expected=wanted)
        answer = self.run(post(self.services, step))
        assert answer == self.reference.post(account_id, sign * amount, key, wanted)

    @rule(name=KEYS, key=KEYS)
    def reverse(self, name: str, key: str) -> None:
        answer = self.run(reverse(self.services, name, key))
        assert answer == self.reference.reverse(name, key)

    @rule(
        postings=st.lists(
            st.tuples(st.sampled_from(ACCOUNTS), st.integers(1, 200)), min_size=2, max_size=12
        ),
        sign=st.sampled_from([-1, 1]),
        base=st.integers(0, 10**6),
    )
    def post_many_at_once(self, postings: list[tuple[str, int]], sign: int, base: int) -> None:
        """Concurrent requests of one direction: whatever the order, it must be explainable.

        What was accepted must fit together, and what was refused must not fit after it.
        """
        keyed = [
            (account, sign * amount, f"m{base}.{n}") for n, (account, amount) in enumerate(postings)
        ]

        async def together() -> list[str]:
            return await asyncio.gather(*(self.post(*posting) for posting in keyed))

        answers = list(zip(self.run(together()), keyed, strict=True))
        known = ("accepted", "replayed")
        for answer, posting in sorted(answers, key=lambda pair: pair[0] not in known):
            assert answer == self.reference.post(*posting)

    @rule(
        transfers=st.lists(
            st.tuples(st.permutations(ACCOUNTS), st.one_of(st.integers(1, 300), AMOUNTS)),
            min_size=1,
            max_size=4,
        ),
        key=KEYS,
    )
    def transfer(self, transfers: list[tuple[list[str], int]], key: str) -> None:
        asked = tuple((names[0], names[1], amount) for names, amount in transfers)
        answer = self.run(post_group(self.services, asked, key))
        assert answer == self.reference.transfer(asked, key)

    @rule(
        key=KEYS,
        account_id=st.sampled_from(ACCOUNTS),
        amount=st.integers(1, 300),
        credit=st.sampled_from([None, *ACCOUNTS]),
    )
    def hold(self, key: str, account_id: str, amount: int, credit: str | None) -> None:
        credit = None if credit == account_id else credit
        answer = self.run(place(self.services, key, account_id, amount, credit))
        assert answer == self.reference.hold(key, account_id, amount, credit)

    @rule(
        key=KEYS,
        name=KEYS,
        amount=st.one_of(st.none(), st.integers(0, 200)),
        final=st.sampled_from([None, True]),
    )
    def end_a_hold(self, key: str, name: str, amount: int | None, final: bool | None) -> None:
        final = final if amount else None
        expected = end_in_reference(self.reference, key, name, amount, final)
        assert self.run(end(self.services, key, name, amount, final)) == expected

    async def change(self, account_id: str, change: AccountChange) -> str:
        try:
            await self.services.ledger.change_account(account_id, change)
        except errors.Rejected as error:
            return error.code
        return "done"

    @rule(account_id=st.sampled_from(ACCOUNTS), limit=st.sampled_from([0, 1, 50, 300, AMOUNT_MAX]))
    def change_the_limit(self, account_id: str, limit: int) -> None:
        text = DecimalText(str(limit // 100), f"{limit % 100:02}")
        answer = self.run(self.change(account_id, AccountChange(credit_limit=text)))
        assert answer == self.reference.limit(account_id, limit)

    @rule(account_id=st.sampled_from(ACCOUNTS), frozen=st.sampled_from(Frozen))
    def freeze(self, account_id: str, frozen: Frozen) -> None:
        answer = self.run(self.change(account_id, AccountChange(frozen=frozen)))
        assert answer == self.reference.freeze(account_id, frozen)

    @rule(account_id=st.sampled_from(ACCOUNTS))
    def close(self, account_id: str) -> None:
        answer = self.run(self.change(account_id, AccountChange(closed=True)))
        assert answer == self.reference.close(account_id)

    @rule()
    def settle(self) -> None:
        self.run(self.worker.settler.settle())
        self.reference.settle()

    @rule()
    def flush_redis(self) -> None:
        self.redis.flushall()

    @precondition(lambda self: self.redis.keys("subbalance:*:account:*"))
    @rule(number=st.integers(0, 10))
    def lose_a_key(self, number: int) -> None:
        keys = sorted(self.redis.keys("subbalance:*:account:*"))
        self.redis.delete(keys[number % len(keys)])

    @rule()
    def switch_the_mode(self) -> None:
        keeper = pipeline_of(self.services)._mode
        if keeper.current.mode is Mode.REDIS:
            keeper._breaker._breaker.open()
            assert self.run(keeper.fall_back(keeper.epoch))
        else:
            assert self.run(keeper.open_redis(keeper.epoch, "test"))

    @rule()
    def restart_the_service(self) -> None:
        self.run(self.stack.aclose())
        self.stack = AsyncExitStack()

        async def again() -> Services:
            self.worker = await self.stack.enter_async_context(open_worker_services(self.settings))
            return await self.stack.enter_async_context(open_services(self.settings))

        self.services = self.run(again())

    @invariant()
    def balances_are_those_of_the_reference(self) -> None:
        for account_id, expected in self.reference.accounts.items():
            balance = self.run(self.services.ledger.balance(account_id))
            assert balance.available_minor == expected.available >= 0
            assert balance.settled_minor == expected.settled
            assert balance.held_minor == self.reference.held(account_id)
            assert balance.version == expected.version
            assert balance.pending_debit_minor == sum(expected.debits)
            assert balance.pending_credit_minor == sum(expected.credits)

    @invariant()
    def the_books_are_verified(self) -> None:
        """A key that is lost is found; nothing else may be."""
        found = {mismatch.kind for mismatch in self.run(self.services.ledger.verify()).mismatches}
        assert found <= {"redis_vanished"}

    @invariant()
    def money_is_conserved(self) -> None:
        total = (
            "SELECT coalesce(sum(settled_balance + pending_credit - pending_debit), 0)"
            " FROM account_balances"
        )
        assert self.run(self.connection.fetchval(total)) == 0

    @invariant()
    def redis_agrees_in_the_ruling_epoch(self) -> None:
        epoch = self.run(self.connection.fetchval("SELECT epoch FROM ledger_shards"))
        for account_id, expected in self.reference.accounts.items():
            fields = self.redis.hgetall(f"subbalance:{{0}}:{epoch}:account:{account_id}")
            if fields:
                assert int(fields["available"]) == expected.available
                assert fields["incoming"] == "0"
                assert int(fields["entries"]) == expected.version
        untold = {str(slot.journaled) for slot in self.services.ledger._batcher._slots}
        assert set(self.redis.hkeys(f"subbalance:{{0}}:{epoch}:flight")) <= untold


@pytest.mark.timeout(300)
def test_the_ledger_agrees_with_the_reference(settings: Settings) -> None:
    machine = type("Machine", (LedgerMachine,), {"settings": settings})
    test = machine.TestCase()
    test.settings = hypothesis_settings(
        max_examples=8,
        stateful_step_count=15,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    test.runTest()
