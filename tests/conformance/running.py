"""Runs programs through the service and the reference, and compares every answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from app.bootstrap import Services, WorkerServices, open_services, open_worker_services
from app.settings import Settings
from tests.conformance.engines import absolute, expected_of, open_accounts, switch, take
from tests.conformance.programs import ACCOUNTS, STEPS, Step, program
from tests.conformance.reference import Reference

ENGINES = ("redis", "postgres", "both")
_SWITCHES = 0.15
_CHANGES = ("limit", "frozen", "close")


class Difference(AssertionError):
    """The service answered otherwise than the reference."""


class Programs:
    """Runs programs on one service, each with accounts and keys of its own, many at once or one
    after the other.
    """

    def __init__(
        self, services: Services, worker: WorkerServices, engine: str, switches: float = _SWITCHES
    ) -> None:
        """`engine` is who decides: `redis`, `postgres`, or `both` in turns at random."""
        self.services = services
        self.worker = worker
        self._switches = switches if engine == "both" else 0.0
        self._switching = asyncio.Lock()
        self.answers: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def on(
        cls, settings: Settings, engine: str, switches: float = _SWITCHES
    ) -> "AsyncIterator[Programs]":
        """Open a service with its worker."""
        async with open_services(settings) as services, open_worker_services(settings) as worker:
            if engine == "postgres":
                await switch(services)
            yield cls(services, worker, engine, switches)

    async def run(self, seed: int, step_count: int = STEPS, prefix: str = "") -> Reference:
        """Run one program; raises `Difference` at the first answer that is not the reference's."""
        random, reference = Random(-seed), Reference()
        await open_accounts(self.services, reference, prefix)
        for number, step in enumerate(program(seed, step_count)):
            if random.random() < self._switches:
                async with self._switching:
                    await switch(self.services)
            if not step.account_id:
                await self.worker.settler.settle()
                reference.settle()
                continue
            sent = step
            if step.account_id in ACCOUNTS and not step.change_of:
                wanted = absolute(reference, step.account_id, step.expected)
                sent = step._replace(expected=wanted)
            expected = expected_of(reference, step)
            found = await take(self.services, renamed(sent, prefix))
            self.answers[found] = self.answers.get(found, 0) + 1
            if found != expected:
                raise Difference(f"seed {seed}, step {number}, {step}: {found}, not {expected}")
        await self._compare(seed, reference, prefix)
        return reference

    async def _compare(self, seed: int, reference: Reference, prefix: str) -> None:
        for account_id, account in reference.accounts.items():
            balance = await self.services.ledger.balance(prefix + account_id)
            found = (balance.available_minor, balance.held_minor, balance.version)
            expected = (account.available, reference.held(account_id), account.version)
            if found != expected:
                raise Difference(f"seed {seed}, account {account_id}: {found}, not {expected}")


def renamed(step: Step, prefix: str) -> Step:
    """The step with accounts and keys of the program's own."""

    def of(name: str) -> str:
        return prefix + name if name in ACCOUNTS else name

    hold = step.hold
    if hold is not None:
        name, amount, more = hold
        more = of(more) if isinstance(more, str) else more
        hold = (prefix + name, amount, more)
    return step._replace(
        account_id=of(step.account_id),
        key=step.key if step.change_of in _CHANGES else prefix + step.key,
        change_of=prefix + step.change_of if step.account_id == "reversal" else step.change_of,
        transfers=tuple(
            (of(debit), of(credit), amount) for debit, credit, amount in step.transfers
        ),
        hold=hold,
    )
