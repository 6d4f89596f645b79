"""The ledger's use cases, one method each. What HTTP, workers and later rooms may call."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from app import errors, limits
from app.kit.cursor import decode_number, decode_position, encode_cursor
from app.kit.ids import AttemptNumbers, assigned_position
from app.ledger.account_store import read_accounts, read_first_rules
from app.ledger.accounts import KnownAccounts, answered_by
from app.ledger.batcher import Batcher
from app.ledger.bulk import Answered, Asked, BulkRequest, ForeseenBulk
from app.ledger.changes import AccountChanges
from app.ledger.dry_run import DryRun, Foreseen
from app.ledger.group import Group, account_ids_of, check_transfers
from app.ledger.group_store import find_units, read_group_at
from app.ledger.health import HealthCheck
from app.ledger.hold_service import Holds
from app.ledger.item import Item
from app.ledger.mode import ModeKeeper
from app.ledger.model import (
    EXTERNAL_PREFIX,
    Acceptance,
    Account,
    AccountChange,
    AccountDetails,
    AccountFilter,
    AccountRequest,
    AccountsPage,
    Balance,
    Identity,
    LedgerHealth,
    PendingPage,
    Transaction,
    TransactionRequest,
    Verification,
    check_account_id,
    check_customer_account_id,
)
from app.ledger.reversals import ReversalRequest
from app.ledger.search import Searches
from app.ledger.statement_store import HistoryStore
from app.ledger.statements import Statements
from app.ledger.store import LedgerStore
from app.ledger.transfers import GroupAcceptance, TransferGroup, TransferRequest
from app.ledger.unit import Unit
from app.ledger.verify import Verifier
from app.settings import Settings

_OPEN_SENDS_MAX = 3


class LedgerService:
    """Moves money and answers questions about it."""

    def __init__(
        self,
        settings: Settings,
        store: LedgerStore,
        decisions: LedgerStore,
        batcher: Batcher[Item],
        groups: Batcher[Unit],
        mode: ModeKeeper,
        health: HealthCheck,
        verifier: Verifier,
        attempts: AttemptNumbers,
        changes: AccountChanges,
    ) -> None:
        """Put the parts together inside the loop they will run in; does no I/O. `store` is for
        reads, `decisions` for those that a movement of money waits for.
        """
        self._loop = asyncio.get_running_loop()
        self._deadline_s = settings.ledger.deadline_ms / 1_000
        self._settings = settings
        self._store = store
        self._mode = mode
        self._batcher = batcher
        self._groups = groups
        self._health = health
        self._verifier = verifier
        self._attempts = attempts
        self._changes = changes
        self._accounts = KnownAccounts(store, mode)
        self._dry_run = DryRun(store, mode)
        history = HistoryStore(store)
        self.statements, self.searches = Statements(history), Searches(history)
        self.holds = Holds(
            self._accounts,
            groups,
            store,
            decisions,
            attempts,
            self._dry_run,
            self._deadline_s,
            requires_key=settings.http.require_idempotency_key,
        )

    async def post_transaction(self, request: TransactionRequest) -> Acceptance:
        """Debit or credit an account: durable when this returns, or refused with an error."""
        accepted: Acceptance = await self._batcher.begin(await self._item(request))
        return accepted

    async def foresee_transaction(self, request: TransactionRequest) -> Foreseen:
        """Say what `post_transaction` would do now; raises what it would raise."""
        item = await self._item(request)
        return await self._dry_run.foresee(item, [item], self._store.transactions_by_identity)

    async def _item(self, request: TransactionRequest) -> Item:
        self._check(request)
        postgres, deadline = self._accounts.current_postgres(), self._deadline()
        async with answered_by(deadline):
            account = await self._account(request.account_id)
        return Item(request, account, deadline, self._loop.create_future(), postgres)

    async def reversal_of(self, transaction_id: UUID, said: ReversalRequest) -> TransactionRequest:
        """The transaction that takes another one back, to be posted; raises why there is none."""
        return said.reversing(await self.transaction(transaction_id))

    def begin_transaction(self, request: TransactionRequest) -> "asyncio.Future[Acceptance]":
        """Start what `post_transaction` does; raises at once what can be refused at once.

        A caller that cancels the future takes nothing back: the decision goes on without it.
        """
        self._check(request)
        postgres = self._accounts.current_postgres()
        account = self._accounts.get(request.account_id)
        if account is None:
            return self._loop.create_task(self.post_transaction(request))
        future = self._loop.create_future()
        return self._batcher.begin(Item(request, account, self._deadline(), future, postgres))

    async def post_transactions(
        self, asked: Asked, idempotency_key: str | None, *, atomic: bool
    ) -> Answered:
        """Debit and credit accounts, each on its own or all or none; answers in order.

        An answer is an acceptance or what it was refused with; raises what refuses all of it.
        """
        return await (await self._bulk(asked, idempotency_key, atomic)).answer(self._batcher)

    async def foresee_transactions(
        self, asked: Asked, idempotency_key: str | None, *, atomic: bool
    ) -> ForeseenBulk:
        """Say what `post_transactions` would do now; raises what it would raise."""
        return await (await self._bulk(asked, idempotency_key, atomic)).foresee(self._dry_run)

    async def _bulk(self, asked: Asked, key: str | None, atomic: bool) -> BulkRequest:
        if self._settings.http.require_idempotency_key and key is None:
            asked = [_named(request) for request in asked]
        bulk = BulkRequest(asked, key, atomic=atomic)
        postgres, deadline = self._accounts.current_postgres(), self._deadline()
        async with answered_by(deadline):
            accounts = await self._accounts.find(bulk.account_ids)
        bulk.make_items(accounts, deadline, postgres)
        return bulk

    async def post_transfers(
        self, requests: Sequence[TransferRequest], idempotency_key: str | None
    ) -> GroupAcceptance:
        """Do transfers, all of them or none: durable when this returns, or refused with an error
        that points into the list.
        """
        asked = self._group(requests, idempotency_key)
        accepted: GroupAcceptance = await self._groups.begin(await asked)
        return accepted

    def begin_transfers(
        self, requests: Sequence[TransferRequest], idempotency_key: str | None
    ) -> "asyncio.Future[GroupAcceptance]":
        """Start what `post_transfers` does, as `begin_transaction` does."""
        self._require_name(requests, idempotency_key)
        postgres = self._accounts.current_postgres()
        known = self._accounts.known(account_ids_of(requests))
        if known is None:
            return self._loop.create_task(self.post_transfers(requests, idempotency_key))
        check_transfers(requests, known)
        deadline = self._deadline()
        return self._groups.begin(Group(requests, idempotency_key, known, deadline, postgres))

    async def foresee_transfers(
        self, requests: Sequence[TransferRequest], idempotency_key: str | None
    ) -> Foreseen:
        """Say what `post_transfers` would do now; raises what it would raise."""
        group = await self._group(requests, idempotency_key)
        return await self._dry_run.foresee(group, group.legs, partial(find_units, self._store))

    async def _group(
        self, requests: Sequence[TransferRequest], idempotency_key: str | None
    ) -> Group:
        self._require_name(requests, idempotency_key)
        postgres, deadline = self._accounts.current_postgres(), self._deadline()
        async with answered_by(deadline):
            accounts = await self._accounts.find(account_ids_of(requests))
        check_transfers(requests, accounts)
        return Group(requests, idempotency_key, accounts, deadline, postgres)

    def _require_name(self, requests: Sequence[TransferRequest], key: str | None) -> None:
        has_name = key is not None or any(each.transfer_id for each in requests)
        if self._settings.http.require_idempotency_key and not has_name:
            raise errors.IdempotencyKeyRequired

    def _check(self, request: TransactionRequest) -> None:
        check_customer_account_id(request.account_id)
        if self._settings.http.require_idempotency_key and not request.identities:
            raise errors.IdempotencyKeyRequired

    def _deadline(self) -> float:
        return self._loop.time() + self._deadline_s

    async def _account(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = (await self._accounts.find([account_id])).get(account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return account

    async def balance(self, account_id: str) -> Balance:
        """Read an account's balance, exact at one instant."""
        check_account_id(account_id)
        external = account_id.startswith(EXTERNAL_PREFIX)
        balance = await self._store.balance(account_id, external=external)
        if balance is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return balance

    async def pending(self, account_id: str, cursor: str | None, limit: int) -> PendingPage:
        """Read what an account has pending: exact count and sums, and a page of movements."""
        check_customer_account_id(account_id)
        after = decode_position(cursor) if cursor else None
        self._accounts.current_postgres()
        account = await self._account(account_id)
        page, last = await self._store.pending(account, after, limit)
        if last is None:
            return page
        return PendingPage(
            account=page.account,
            count=page.count,
            debit_minor=page.debit_minor,
            credit_minor=page.credit_minor,
            items=page.items,
            next_cursor=encode_cursor(*last),
        )

    async def transaction(self, transaction_id: UUID) -> Transaction:
        """Find a transaction by its id, whoever chose it."""
        position = assigned_position(transaction_id)
        if position is None:
            return await self._by_identity(Identity.of_id(transaction_id))
        transaction = None
        if position.batch_seq <= limits.BATCH_SEQ_MAX:
            transaction = await self._store.transaction_at(position)
        if transaction is None or transaction.transaction_id != transaction_id:
            raise errors.TransactionNotFound
        return transaction

    async def reversal_id(self, transaction: Transaction) -> UUID | None:
        """The transaction that takes another one back, if one does."""
        identity = Identity.of_reversal(transaction.transaction_id)
        found = (await self._store.transactions_by_identity([identity])).get(identity)
        return None if found is None else found.transaction_id

    async def transaction_by_key(self, idempotency_key: str) -> Transaction:
        """Find the transaction that was accepted under an Idempotency-Key."""
        return await self._by_identity(Identity.of_key(idempotency_key))

    async def group(self, transfer_id: UUID) -> TransferGroup:
        """Find the group that a transfer belongs to, a transfer alone being one of its own."""
        position = assigned_position(transfer_id)
        if position is None:
            return await self._group_by_identity(Identity.of_id(transfer_id))
        group = None
        if position.batch_seq <= limits.BATCH_SEQ_MAX:
            group = await read_group_at(self._store, position)
        if group is None or group.find(transfer_id) is None:
            raise errors.TransferNotFound
        return group

    async def group_by_key(self, idempotency_key: str) -> TransferGroup:
        """Find the group that was accepted under an Idempotency-Key."""
        return await self._group_by_identity(Identity.of_key(idempotency_key))

    async def _group_by_identity(self, identity: Identity) -> TransferGroup:
        group = (await find_units(self._store, [identity])).get(identity)
        if not isinstance(group, TransferGroup):
            raise errors.TransferNotFound
        return group

    async def _by_identity(self, identity: Identity) -> Transaction:
        transactions = await self._store.transactions_by_identity([identity])
        if identity in transactions:
            return transactions[identity]
        named = await self._store.requests_by_identity([identity])
        raise errors.KeyOfMany if named.get(identity) else errors.TransactionNotFound

    async def open_account(self, request: AccountRequest) -> tuple[AccountDetails, bool]:
        """Open an account; the same request again is answered again, with True."""
        check_customer_account_id(request.account_id)
        opened = await self._send_opening(request)
        details = await self.account(request.account_id)
        if not opened and not await self._is_same_opening(request, details):
            raise errors.AccountExists(pointer="/account_id")
        return details, not opened

    async def foresee_account(self, request: AccountRequest) -> Foreseen:
        """Say what `open_account` would do now; raises what it would raise."""
        check_customer_account_id(request.account_id)
        self._dry_run.require_open()
        async with self._dry_run.turn():
            return await self._foresee_account(request)

    async def _foresee_account(self, request: AccountRequest) -> Foreseen:
        details = await self._store.account_details(request.account_id)
        if details is None:
            account = Account(0, request.account_id, request.currency, request.exponent)
            return Foreseen(None, {account: request.opening_minor + request.credit_limit_minor})
        if not await self._is_same_opening(request, details):
            raise errors.AccountExists(pointer="/account_id")
        return Foreseen(details, {details.account: await self._dry_run.available(details.account)})

    async def _send_opening(self, request: AccountRequest) -> bool:
        """Open the account, sending again after a lost reply: the id can be taken only once.

        The ledger's rules may be newer than this process, so who rules is read before.
        """
        await self._mode.read_state()
        attempt_id = self._attempts.draw()
        for _ in range(_OPEN_SENDS_MAX):
            try:
                return await self._store.open_account(request, attempt_id)
            except errors.PostgresUnavailable as exc:
                failure = exc
        raise errors.JournalOutcomeUnknown from failure

    async def _is_same_opening(self, request: AccountRequest, details: AccountDetails) -> bool:
        identity = Identity.of_opening(request.account_id)
        opening = (await self._store.transactions_by_identity([identity])).get(identity)
        first = await read_first_rules(self._store, request.account_id)
        limit_minor, metadata = first or (details.credit_limit_minor, details.metadata)
        return (
            request.currency == details.account.currency
            and request.credit_limit_minor == limit_minor
            and request.metadata == metadata
            and request.opening_minor == (opening.change_minor if opening else 0)
        )

    async def account(self, account_id: str) -> AccountDetails:
        """Read an account's configuration."""
        check_account_id(account_id)
        details = await self._store.account_details(account_id)
        if details is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return details

    async def change_account(self, account_id: str, change: AccountChange) -> AccountDetails:
        """Change an account: in force everywhere when this returns, or refused with an error."""
        check_customer_account_id(account_id)
        return await self._changes.change(account_id, change)

    async def foresee_change(self, account_id: str, change: AccountChange) -> Foreseen:
        """Say what `change_account` would do now; raises what it would raise."""
        check_customer_account_id(account_id)
        self._dry_run.require_open()
        async with self._dry_run.turn():
            account, more_minor = await self._changes.foresee(account_id, change)
            available_minor = await self._dry_run.available(account)
        return Foreseen(None, {account: available_minor + more_minor})

    async def list_accounts(
        self, wanted: AccountFilter, cursor: str | None, limit: int
    ) -> AccountsPage:
        """Read a page of customers' accounts in order of their number, those that are as wanted."""
        after = 0 if cursor is None else decode_number(cursor)
        accounts, last = await read_accounts(self._store, wanted, after, limit)
        return AccountsPage(
            accounts=tuple(accounts), next_cursor=None if last is None else encode_cursor(last)
        )

    async def test_account_ids(self) -> list[str]:
        """List accounts that were opened for tests."""
        return await self._store.test_account_ids()

    async def verify(self) -> Verification:
        """Compare everything with everything, as far as a bounded time allows."""
        return await self._verifier.verify(limits.VERIFY_ON_DEMAND_S)

    async def health(self) -> LedgerHealth:
        """Ask every part how it is; bounded by the parts' own time-outs."""
        return await self._health.ask()


def _named(
    request: TransactionRequest | errors.LedgerError,
) -> TransactionRequest | errors.LedgerError:
    """Require a key or an id of a request."""
    if isinstance(request, errors.LedgerError) or request.identities:
        return request
    return errors.IdempotencyKeyRequired(pointer="/idempotency_key")
