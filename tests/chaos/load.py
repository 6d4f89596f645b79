"""The clients: a seeded, bounded load that repeats, doubles and varies requests, and records all.

Amounts are small and balances too, so that funds are short often. Every operation carries a
reference of its own, by which it is found in the journal whether it has a key or not.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.chaos import bulks
from tests.chaos.asking import ask
from tests.chaos.bodies import act_body, body_of, major
from tests.chaos.changes import Changer
from tests.chaos.client import HttpClient, Lost, NotSent
from tests.chaos.history import (
    Account,
    BalanceRead,
    Bulk,
    History,
    HoldAct,
    Invisible,
    Operation,
    Outcome,
    Rule,
    Sending,
    fields_of,
)

TRANSACTION_PATH = "/api/v1/transaction"
GROUP_PATH = "/api/v1/groups"
HOLD_PATH = "/api/v1/holds"
HOLD_ACTS_MAX = 4
GROUP_TRANSFERS_MAX = 5
LATER_THAN_ANY_RUN_S = 86_400
PATIENCE_S = 12.0
SHORT_PATIENCE_S = 2.0
RETRIES_MAX = 6
RETRY_PAUSE_S = (0.05, 0.4)
OPERATIONS_MAX = 400_000
OPENING_TRIES_MAX = 20
OPENING_PAUSE_S = 0.25
_OPENING_TASKS = 16
_OK, _CREATED, _NOT_FOUND = 200, 201, 404
_IDS = uuid.UUID("7d0d4a1e-5c0b-4a7c-9d53-0d6f0f1f3c55")


class Habits(NamedTuple):
    """How often clients do what, as shares of one."""

    credit: float = 0.4
    transfers: float = 0.25
    holds: float = 0.2
    drain: float = 0.06
    bulk: float = 0.08
    conditional: float = 0.1
    reverse: float = 0.08
    without_name: float = 0.06
    with_own_id: float = 0.15
    double: float = 0.12
    impatient: float = 0.12
    patient: float = 0.2
    repeat_accepted: float = 0.08
    other_body: float = 0.04
    read_back: float = 0.06
    revisit: float = 0.04
    give_up: float = 0.1


class Load:
    """A crowd of clients on a set of APIs."""

    def __init__(
        self, urls: dict[str, str], history: History, seed: int, prefix: str, clients: int
    ) -> None:
        """Nothing is sent before `open_accounts` and `run`."""
        self.habits = Habits()
        self._urls = urls
        self._history = history
        self._seed = seed
        self._prefix = prefix
        self._clients = clients
        self._accounts: list[Account] = []
        self._weights: list[float] = []
        self._began = time.monotonic()
        self._stopping = False

    @property
    def now_s(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._began

    def begin(self) -> float:
        """Count the run's seconds from now; returns the monotonic instant."""
        self._began = time.monotonic()
        return self._began

    def plan_accounts(self, cold: int) -> list[Account]:
        """One hot account with little money, some warm ones, many cold ones, some with a limit."""
        rng = random.Random(f"{self._seed}:accounts")
        planned = [self._account("hot", 0, "USD", 2, 1_500, 0)]
        for number in range(8):
            limit = rng.randrange(500, 5_000) if number % 3 == 0 else 0
            currency, exponent = ("JPY", 0) if number == 7 else ("USD", 2)
            opening = rng.randrange(0, 3_000)
            planned.append(self._account("warm", number, currency, exponent, opening, limit))
        for number in range(cold):
            limit = 300 if number % 10 == 0 else 0
            opening = 0 if number % 4 == 0 else rng.randrange(1, 900)
            planned.append(self._account("cold", number, "USD", 2, opening, limit))
        return planned

    def _account(
        self, heat: str, number: int, currency: str, exponent: int, opening: int, limit: int
    ) -> Account:
        account_id = f"{self._prefix}-{heat}{number}"
        return Account(account_id, currency, exponent, opening, limit, heat)

    async def open_accounts(self, planned: Sequence[Account]) -> None:
        """Open accounts; `RuntimeError` when one cannot be opened in bounded time."""
        waiting = list(planned)

        async def open_some(url: str) -> None:
            client = HttpClient(url)
            while waiting:
                await self._open(client, waiting.pop())
            client.close()

        urls = list(self._urls.values())
        tasks = (open_some(urls[number % len(urls)]) for number in range(_OPENING_TASKS))
        await asyncio.gather(*tasks)
        self._accounts = list(planned)
        heat = {"hot": 12.0, "warm": 2.0, "cold": 8.0 / max(1, len(planned) - 9)}
        self._heat = heat
        self._weights = [self._weight(account) for account in planned]
        for account in planned:
            limit = major(account.credit_limit_minor, account.exponent)
            self._history.accounts[account.account_id] = account
            self._history.rules[account.account_id] = [Rule("none", limit, 0.0)]

    def _weight(self, account: Account) -> float:
        return self._heat[account.heat]

    async def _open(self, client: HttpClient, account: Account) -> None:
        body = {
            "account_id": account.account_id,
            "currency": account.currency,
            "opening_balance": major(account.opening_minor, account.exponent),
            "credit_limit": major(account.credit_limit_minor, account.exponent),
        }
        answer: object = None
        for _ in range(OPENING_TRIES_MAX):
            try:
                answer = await client.request("POST", "/api/v1/accounts", PATIENCE_S, body)
                if answer.status == _CREATED:
                    return
            except (NotSent, Lost) as exc:
                answer = exc
            await asyncio.sleep(OPENING_PAUSE_S)
        raise RuntimeError(f"account {account.account_id} could not be opened: {answer}")

    async def run(self, seconds: float, rate: float) -> None:
        """Let all clients work for a time, about `rate` operations a second in all."""
        self._stopping = False
        pause_s = self._clients / rate
        crowd = [
            asyncio.create_task(self._behave(number, pause_s)) for number in range(self._clients)
        ]
        changer = Changer(self._urls, self._history, self._seed, self)
        crowd += [
            asyncio.create_task(changer.change_always(account, lambda: self._stopping))
            for account in changer.pick(self._accounts)
        ]
        done, _ = await asyncio.wait(crowd, timeout=seconds)
        self._stopping = True
        await asyncio.gather(*crowd)
        for task in done:
            task.result()

    async def _behave(self, number: int, pause_s: float) -> None:
        """One client until the end: think, do one thing, think."""
        rng = random.Random(f"{self._seed}:client:{number}")
        clients = {name: HttpClient(url) for name, url in self._urls.items()}
        operations = self._history.operations
        while not self._stopping and len(operations) < OPERATIONS_MAX:
            await asyncio.sleep(rng.expovariate(1 / pause_s))
            if operations and rng.random() < self.habits.revisit:
                earlier = operations[rng.randrange(len(operations))]
                if earlier.is_named and earlier.may_go_alone:
                    await self._send(clients, earlier, rng, self._patience_s(rng))
                continue
            if rng.random() < self.habits.bulk:
                await self._send_bulk(rng, number)
                continue
            operation = self._operation(rng, number)
            draw = rng.random()
            if draw < self.habits.transfers:
                self._make_group(operation, rng)
            elif draw < self.habits.transfers + self.habits.holds:
                self._make_hold(operation, rng)
            elif rng.random() < self.habits.drain:
                await self._take_all(clients, operation, rng)
            elif rng.random() < self.habits.conditional:
                await self._expect_a_version(clients, operation, rng)
            operations.append(operation)
            await self._pursue(clients, operation, rng)
        for client in clients.values():
            client.close()

    def _operation(self, rng: random.Random, number: int, part: int = 0) -> Operation:
        account = rng.choices(self._accounts, self._weights)[0]
        amount_minor = rng.choice((1, 5, 10, 50, 99, 250, 600)) + rng.randrange(0, 40)
        reference = f"{self._prefix}.{number}.{len(self._history.operations)}"
        reference += f".{part}" if part else ""
        named = rng.random() >= self.habits.without_name
        own_id = named and rng.random() < self.habits.with_own_id
        keyed = named and (not own_id or rng.random() < 0.5)
        return Operation(
            reference=reference,
            account_id=account.account_id,
            amount=major(amount_minor, account.exponent),
            amount_minor=amount_minor,
            is_credit=rng.random() < self.habits.credit,
            key=f"k:{reference}" if keyed else None,
            transaction_id=str(uuid.uuid5(_IDS, reference)) if own_id else None,
            sendings=[],
        )

    async def _send_bulk(self, rng: random.Random, number: int) -> None:
        """Send several transactions by one request, of a name or each of its own."""
        operations = [
            self._operation(rng, number, part) for part in range(rng.randint(1, bulks.ITEMS_MAX))
        ]
        bulk = Bulk(operations, is_atomic=rng.random() < 0.4)
        for operation in operations:
            operation.may_go_alone = not bulk.is_atomic
        if rng.random() < 0.5:
            bulk.key = f"k:bulk:{operations[0].reference}"
            for operation in operations:
                operation.key = operation.transaction_id = None
        patience_s = self._patience_s(rng)
        await bulks.pursue(self._urls, self._history, bulk, rng, patience_s, self)

    def _make_group(self, operation: Operation, rng: random.Random) -> None:
        """Make an operation a group of transfers that begins at its account."""
        exponent = self._history.accounts[operation.account_id].exponent
        partners = [each for each in self._accounts if each.exponent == exponent]
        weights = [self._weight(each) for each in partners]
        debit = operation.account_id
        for _ in range(rng.randint(1, GROUP_TRANSFERS_MAX)):
            credit = rng.choices(partners, weights)[0].account_id
            if credit != debit:
                amount_minor = operation.amount_minor + rng.randrange(0, 9)
                operation.transfers.append((debit, credit, amount_minor))
            debit = rng.choice([operation.account_id, rng.choices(partners, weights)[0].account_id])
        if operation.transfers:
            operation.account_id, _, operation.amount_minor = operation.transfers[0]
            operation.is_credit = False

    def _make_hold(self, operation: Operation, rng: random.Random) -> None:
        """Make an operation a hold, for another account or for nobody here."""
        exponent = self._history.accounts[operation.account_id].exponent
        partners = [each for each in self._accounts if each.exponent == exponent]
        partner = rng.choices(partners, [self._weight(each) for each in partners])[0].account_id
        operation.holds, operation.is_credit = True, False
        operation.hold_for = None if partner == operation.account_id else partner
        operation.expires_in_s = rng.choice((None, 1, 3, LATER_THAN_ANY_RUN_S))

    async def _work_hold(
        self,
        clients: dict[str, HttpClient],
        operation: Operation,
        placed: Sending,
        rng: random.Random,
    ) -> None:
        """Do things to a hold, some of them from several clients at once."""
        hold_id = placed.fields.get("hold_id")
        for number in range(rng.randint(0, HOLD_ACTS_MAX)):
            together = []
            for twin in range(rng.choice((1, 1, 2))):
                amount = rng.choice((None, rng.randrange(1, operation.amount_minor + 1)))
                act = HoldAct(
                    rng.choice(("capture", "capture", "release")),
                    f"k:{operation.reference}.{number}.{twin}",
                    amount,
                    final=rng.random() < 0.3,
                    sendings=[],
                )
                operation.acts.append(act)
                together += [act] * rng.choice((1, 1, 2))

            async def once(act: HoldAct) -> None:
                name = rng.choice(list(self._urls))
                client = HttpClient(self._urls[name])
                path = f"{HOLD_PATH}/{hold_id}/{act.kind}"
                account = self._history.accounts[operation.account_id]
                sending = await ask(
                    client, name, path, act_body(act, account), act.key, self._patience_s(rng), self
                )
                act.sendings.append(sending)
                client.close()

            await asyncio.gather(*(once(act) for act in together))

    async def _take_all(
        self, clients: dict[str, HttpClient], operation: Operation, rng: random.Random
    ) -> None:
        """Make an operation a debit of all its account has, so that any cent too much shows."""
        account = self._history.accounts[operation.account_id]
        balance = await self._balance(clients, operation, rng)
        amount_minor = int(str(balance.get("available_balance", "0")).replace(".", ""))
        if amount_minor > 0:
            operation.is_credit, operation.amount_minor = False, amount_minor
            operation.amount = major(amount_minor, account.exponent)

    async def _expect_a_version(
        self, clients: dict[str, HttpClient], operation: Operation, rng: random.Random
    ) -> None:
        """Make an operation good for the version that its account has now."""
        operation.version = (await self._balance(clients, operation, rng)).get("version")

    async def _balance(
        self, clients: dict[str, HttpClient], operation: Operation, rng: random.Random
    ) -> dict[str, Any]:
        """Read the balance of an operation's account from any instance; nothing if none answers."""
        api, started_s = rng.choice(list(clients)), self.now_s
        path = f"/api/v1/balance/{operation.account_id}"
        try:
            answer = await clients[api].request("GET", path, SHORT_PATIENCE_S)
        except (NotSent, Lost):
            return {}
        if answer.status != _OK:
            return {}
        shown = fields_of(answer.body)
        figures = (str(shown.get(name)) for name in ("credit_limit", "available_balance"))
        read = BalanceRead(operation.account_id, api, started_s, self.now_s, *figures)
        self._history.balances.append(read)
        return shown

    async def _pursue(
        self, clients: dict[str, HttpClient], operation: Operation, rng: random.Random
    ) -> None:
        """Send an operation until its outcome is known, as far as this client's patience goes."""
        if operation.is_named and rng.random() < self.habits.double:
            await self._double(operation, rng)
        last = await self._send(clients, operation, rng, self._patience_s(rng))
        for _ in range(RETRIES_MAX):
            settled = last.outcome in (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.BROKEN)
            gives_up = rng.random() < self.habits.give_up
            if settled or not operation.is_named or gives_up or self._stopping:
                break
            await asyncio.sleep(rng.uniform(*RETRY_PAUSE_S))
            last = await self._send(clients, operation, rng, self._patience_s(rng))
        if last.outcome is Outcome.ACCEPTED:
            await self._follow_up(clients, operation, last, rng)

    async def _double(self, operation: Operation, rng: random.Random) -> None:
        """Send the same request through several connections at once."""

        async def once(name: str) -> None:
            client = HttpClient(self._urls[name])
            await self._send({name: client}, operation, rng, self._patience_s(rng))
            client.close()

        names = [*self._urls, rng.choice(list(self._urls))]
        await asyncio.gather(*(once(name) for name in names))

    async def _follow_up(
        self,
        clients: dict[str, HttpClient],
        operation: Operation,
        accepted: Sending,
        rng: random.Random,
    ) -> None:
        """After an acceptance: repeat it, ask for something else under its key, or read it."""
        if operation.holds and not operation.acts:
            await self._work_hold(clients, operation, accepted, rng)
        draw = rng.random()
        habits = self.habits
        if not operation.transfers and not operation.holds and operation.reverses is None:
            for number in range(rng.choice((1, 1, 2)) if rng.random() < habits.reverse else 0):
                await self._reverse(clients, operation, accepted, rng, number)
        if operation.reverses is not None:
            return
        if operation.is_named and draw < habits.repeat_accepted:
            await self._send(clients, operation, rng, SHORT_PATIENCE_S)
        elif operation.is_named and draw < habits.repeat_accepted + habits.other_body:
            await self._send(clients, operation, rng, SHORT_PATIENCE_S, is_other_body=True)
        elif draw > 1 - habits.read_back:
            await self._read_back(clients, operation, accepted, rng)

    async def _reverse(
        self,
        clients: dict[str, HttpClient],
        operation: Operation,
        accepted: Sending,
        rng: random.Random,
        number: int,
    ) -> None:
        """Take a transaction back, under a key of its own."""
        reference = f"{operation.reference}.r{number}"
        reversal = Operation(
            reference=reference,
            account_id=operation.account_id,
            amount=operation.amount,
            amount_minor=operation.amount_minor,
            is_credit=not operation.is_credit,
            key=f"k:{reference}",
            sendings=[],
            reverses=str(accepted.fields.get("transaction_id")),
        )
        self._history.operations.append(reversal)
        await self._pursue(clients, reversal, rng)

    async def _read_back(
        self,
        clients: dict[str, HttpClient],
        operation: Operation,
        accepted: Sending,
        rng: random.Random,
    ) -> None:
        """What was accepted must be found by any instance at once."""
        api = rng.choice(list(clients))
        path = f"/api/v1/transactions/{accepted.fields.get('transaction_id')}"
        if operation.transfers:
            path = f"{GROUP_PATH}/{accepted.fields.get('group_id')}"
        if operation.holds:
            path = f"{HOLD_PATH}/{accepted.fields.get('hold_id')}"
        if operation.key is not None and rng.random() < 0.5:
            path = f"/api/v1/transactions?idempotency_key={operation.key}"
        try:
            answer = await clients[api].request("GET", path, SHORT_PATIENCE_S)
        except (NotSent, Lost):
            return
        self._history.reads += 1
        if answer.status == _NOT_FOUND:
            found = Invisible(operation, api, self.now_s, f"GET {path}: {answer.status}")
            self._history.invisible.append(found)

    async def _send(
        self,
        clients: dict[str, HttpClient],
        operation: Operation,
        rng: random.Random,
        patience_s: float,
        *,
        is_other_body: bool = False,
    ) -> Sending:
        """Send once to any API."""
        api = rng.choice(list(clients))
        return await self.send(
            clients[api], api, operation, patience_s, is_other_body=is_other_body
        )

    async def send(
        self,
        client: HttpClient,
        api: str,
        operation: Operation,
        patience_s: float,
        *,
        is_other_body: bool = False,
    ) -> Sending:
        """Send once and record what came back."""
        body = body_of(operation, self._history.accounts[operation.account_id], is_other_body)
        path = GROUP_PATH if operation.transfers else TRANSACTION_PATH
        path = HOLD_PATH if operation.holds else path
        if operation.reverses is not None:
            path = f"/api/v1/transactions/{operation.reverses}/reversal"
        sending = await ask(client, api, path, body, operation.key, patience_s, self)
        sending.is_other_body = is_other_body
        operation.sendings.append(sending)
        return sending

    def _patience_s(self, rng: random.Random) -> float:
        draw = rng.random()
        if draw < self.habits.impatient:
            return rng.uniform(0.005, 0.3)
        return PATIENCE_S if draw > 1 - self.habits.patient else SHORT_PATIENCE_S
