"""The ledger's reads in PostgreSQL, and the opening of accounts. Every read is exact: pending
amounts come from the journal itself, never from a copy.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from app import errors, limits
from app.infra.postgres import POSTGRES_ERRORS
from app.infra.queries import load_queries
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.codes import Changed, EntryStatus, Frozen, Mode
from app.ledger.model import (
    Account,
    AccountDetails,
    AccountRequest,
    Balance,
    Consistency,
    Controls,
    HealthFacts,
    Identity,
    PendingPage,
    StoredPart,
    Transaction,
    Verification,
    external_account_id,
)

if TYPE_CHECKING:
    from app.infra.postgres import Pool

QUERIES = {name: query.sql for name, query in load_queries("ledger").items()}
VERIFY_QUERIES = {name: query.sql for name, query in load_queries("verify").items()}
SHARD = 0
decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_decode_refusals = msgspec.json.Decoder(list[tuple[int, str, str | None]]).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
encode_json = msgspec.json.Encoder().encode
_Row = Any
_UNDONE = "SBUND"


class LedgerStore:
    """Reads of one PostgreSQL pool; each method is one statement, hence one snapshot."""

    def __init__(self, pool: "Pool", timeout_ms: int) -> None:
        """Use a pool; no call waits longer than the time-out for a connection."""
        self._pool = pool
        self._timeout_s = timeout_ms / 1_000

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        """Lend a connection for reads; what it raises is turned into the ledger's errors."""
        try:
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                yield connection
        except POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        except asyncpg.PostgresError as exc:
            raise errors.InvariantViolation(f"PostgreSQL refuses a statement: {exc}") from exc

    async def fetch_sql(self, sql: str, *arguments: Any) -> Sequence[_Row]:
        """Run one of the named statements."""
        async with self.reading() as connection:
            rows: Sequence[_Row] = await connection.fetch(sql, *arguments)
            return rows

    async def fetch_once(self, sql: str, *arguments: Any) -> Sequence[_Row]:
        """Run a statement that writes.

        Raises `PostgresUnavailable` when it was not sent and `InvariantViolation` when it was
        refused; whatever else is raised leaves its outcome open.
        """
        try:
            connection = await self._pool.acquire(timeout=self._timeout_s)
        except Exception as exc:
            raise errors.PostgresUnavailable(f"no connection: {exc}") from exc
        try:
            rows: Sequence[_Row] = await connection.fetch(sql, *arguments)
            return rows
        except asyncpg.PostgresError as exc:
            if isinstance(exc, POSTGRES_ERRORS):
                raise
            raise errors.InvariantViolation(f"PostgreSQL refuses a statement: {exc}") from exc
        finally:
            await self._pool.release(connection, timeout=self._timeout_s)

    async def fetch_undone(self, sql: str, *arguments: Any) -> str:
        """Run a statement that fails to take back what it did; returns what it tells with that."""
        async with self.reading() as connection:
            try:
                await connection.fetch(sql, *arguments)
            except asyncpg.PostgresError as exc:
                if exc.sqlstate == _UNDONE:
                    return str(exc.detail)
                raise
        raise errors.InvariantViolation("a statement that was to be taken back was not")

    async def _fetch(self, name: str, *arguments: Any) -> Sequence[_Row]:
        return await self.fetch_sql(QUERIES[name], *arguments)

    async def accounts(self, account_ids: Sequence[str]) -> dict[str, Account]:
        """Look accounts up by id; an unknown id is simply missing from the answer."""
        rows = await self._fetch("accounts_by_id", list(account_ids))
        return {row["account_id"]: account_of(row) for row in rows}

    async def accounts_to_load(self, account_nos: Sequence[int]) -> dict[int, _Row]:
        """Read what Redis needs to know of accounts, as decimal text by account number."""
        rows = await self._fetch("accounts_to_load", list(account_nos))
        return {row["account_no"]: row for row in rows}

    async def account_to_load(self, account_id: str) -> _Row | None:
        """Read what Redis needs to know of one account now; None when there is none."""
        account = (await self.accounts([account_id])).get(account_id)
        rows = {} if account is None else await self.accounts_to_load([account.account_no])
        return next(iter(rows.values()), None)

    async def transactions_by_identity(
        self, identities: Sequence[Identity]
    ) -> dict[Identity, Transaction]:
        """Find what was accepted under these identities."""
        if not identities:
            return {}
        scopes = [identity.scope for identity in identities]
        names = [identity.name for identity in identities]
        rows = await self._fetch("entries_by_identity", scopes, names)
        return {Identity(row["scope"], row["name"]): transaction_of(row) for row in rows}

    async def requests_by_identity(
        self, identities: Sequence[Identity]
    ) -> dict[Identity, StoredPart | None]:
        """Find the parts of requests that these identities name; None where one names a single
        transaction.
        """
        scopes = [identity.scope for identity in identities]
        names = [identity.name for identity in identities]
        rows = await self._fetch("requests_by_identity", scopes, names)
        return {Identity(row["scope"], row["name"]): _part(row) for row in rows}

    async def foresee(
        self, query: str | None, arguments: Sequence[Any], account_nos: Sequence[int]
    ) -> tuple[_Row | None, Sequence[_Row]]:
        """Have a query decide without locks, if one is named, and read what accounts have, as
        `accounts_to_load` does; both on one snapshot.
        """
        async with (
            self.reading() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = None if query is None else await connection.fetchrow(QUERIES[query], *arguments)
            return row, await connection.fetch(QUERIES["accounts_to_load"], list(account_nos))

    async def epoch_rules(self, epoch: int, word: str, mode: Mode) -> bool:
        """Tell whether an epoch rules at the moment of this read."""
        return bool((await self._fetch("epoch_rules", SHARD, epoch, word, mode))[0][0])

    async def transaction_at(self, position: EntryPosition) -> Transaction | None:
        """Find the transaction at a place in the journal, if its id was assigned here."""
        rows = await self._fetch("entry_by_position", position.batch_seq, position.item_no)
        return transaction_of(rows[0]) if rows else None

    async def balance(self, account_id: str, *, external: bool) -> Balance | None:
        """Read one account's balance from one snapshot."""
        rows = await self._fetch("external_balance" if external else "balance", account_id)
        return _balance(rows[0]) if rows else None

    async def pending(
        self, account: Account, after: EntryPosition | None, limit: int
    ) -> tuple[PendingPage, EntryPosition | None]:
        """Read a page of pending movements and, if there are more, the position to go on from."""
        batch_seq, item_no = after or (0, 0)
        start = item_no if after else -1
        rows = await self._fetch("pending_page", account.account_no, batch_seq, start, limit + 1)
        items = tuple(transaction_of(row, account) for row in rows if row["batch_seq"] is not None)
        last = rows[limit - 1] if len(items) > limit else None
        page = PendingPage(
            account=account,
            count=rows[0]["entry_count"],
            debit_minor=int(rows[0]["debit_minor"]),
            credit_minor=int(rows[0]["credit_minor"]),
            items=items[:limit],
            next_cursor=None,
        )
        return page, EntryPosition(last["batch_seq"], last["item_no"]) if last else None

    async def account_details(self, account_id: str) -> AccountDetails | None:
        """Read one account's configuration."""
        rows = await self._fetch("account_details", account_id)
        return details_of(rows[0]) if rows else None

    async def open_account(self, request: AccountRequest, attempt_id: int) -> bool:
        """Open an account with its opening balance; False when the id is taken.

        Sending it again after a lost answer finds the id taken, so the caller compares.
        """
        arguments = (
            SHARD,
            attempt_id,
            request.account_id,
            external_account_id(request.currency),
            request.currency,
            request.exponent,
            request.credit_limit_minor,
            encode_json(request.metadata).decode(),
            request.opening_minor,
            Identity.of_opening(request.account_id).name,
        )
        rows = await self._fetch("open_account", *arguments)
        if rows[0][0] == 0:
            raise errors.LedgerClosed
        return rows[0][0] is not None

    async def test_account_ids(self) -> list[str]:
        """List accounts that were opened for tests, oldest first."""
        rows = await self._fetch("test_account_ids", limits.TEST_ACCOUNTS_MAX)
        return [row["account_id"] for row in rows]

    async def short_redis_epochs(self, stable_ms: int) -> int:
        """Count the latest epochs of Redis in a row that ended sooner than this."""
        rows = await self._fetch("short_redis_epochs", SHARD, stable_ms, limits.EPOCHS_REMEMBERED)
        return int(rows[0][0])

    async def void_attempt(self, attempt_id: int) -> bool:
        """Put a tombstone on an attempt; False when it was journaled before."""
        rows = await self._fetch("void_attempt", SHARD, attempt_id)
        return bool(rows[0][0])

    async def void_change(self, attempt_id: int) -> Changed:
        """Put a tombstone on an attempt to change an account unless it was decided before; returns
        what became of it.
        """
        return Changed((await self._fetch("void_change", attempt_id))[0][0])

    async def control(self, action: str, actor: str, reason: str) -> int:
        """Do what an operator asks, and write it down; returns the epoch that rules then."""
        rows = await self._fetch("control_ledger", SHARD, action, actor, reason)
        return int(rows[0][0])

    async def record(self, verification: Verification) -> None:
        """Keep a verification's result for everybody to see."""
        await self._fetch(
            "record_verification",
            verification.epoch,
            verification.mode,
            verification.complete,
            encode_json(verification.compared).decode(),
            len(verification.mismatches),
            encode_json(verification.mismatches).decode(),
            int(verification.duration_ms * 1_000),
            limits.VERIFY_KEPT,
        )

    async def health_facts(self) -> HealthFacts:
        """Read the settler's lag, the operators' settings and the latest consistency check."""
        row = (await self._fetch("health_facts", SHARD))[0]
        consistency = None
        if row["verified_at"] is not None:
            consistency = Consistency(
                ok=row["mismatch_count"] == 0,
                complete=row["is_complete"],
                mismatch_count=row["mismatch_count"],
                duration_ms=row["duration_us"] / 1_000,
                verified_at=row["verified_at"],
                compared=_decode_counts(row["compared"]),
            )
        controls = Controls(
            forced_mode=row["forced_mode"],
            closed=row["mode"] == Mode.CLOSED,
            last_action=row["action"],
            last_actor=row["actor"],
            last_action_at=row["acted_at"],
        )
        return HealthFacts(settler_lag_ms=row["lag_ms"], controls=controls, consistency=consistency)


async def draw_process_number(pool: "Pool", timeout_ms: int) -> int:
    """Take a process number; raises `PostgresUnavailable`."""
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            return int(await pool.fetchval(QUERIES["process_number"], SHARD))
    except POSTGRES_ERRORS as exc:
        raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as exc:
        raise errors.UnusableDatabase("The database has no schema yet.") from exc


def uuid_of(stored: Any) -> UUID | None:
    """Make asyncpg's own kind of UUID one that everybody knows."""
    return None if stored is None else UUID(int=stored.int)


def transaction_id_of(row: _Row) -> UUID:
    """The client's id of an entry, or the one its position stands for."""
    if row["transaction_id"] is not None:
        return UUID(int=row["transaction_id"].int)
    position = EntryPosition(row["batch_seq"], row["item_no"])
    return assigned_transaction_id(accepted_ms(row["created_at"]), position)


def accepted_ms(accepted_at: datetime) -> int:
    """Milliseconds since 1970, exactly as SQL computes them."""
    return int(accepted_at.timestamp()) * 1_000 + accepted_at.microsecond // 1_000


def account_of(row: _Row) -> Account:
    """Read what never changes about an account out of a row."""
    return Account(row["account_no"], row["account_id"], row["currency"], row["exponent"])


def _part(row: _Row) -> StoredPart | None:
    if not row["is_request"]:
        return None
    refusals = _decode_refusals(row["refusals"])
    return StoredPart(
        batch_seq=row["batch_seq"],
        accepted_at=row["created_at"],
        mode=Mode(row["mode"]),
        attempt_id=row["attempt_id"],
        digest=row["request_digest"],
        refusals={position: (code, available) for position, code, available in refusals},
    )


def transaction_of(row: _Row, account: Account | None = None) -> Transaction:
    """Read an accepted movement out of a row."""
    metadata = row["metadata"]
    return Transaction(
        transaction_id=transaction_id_of(row),
        account=account or account_of(row),
        change_minor=row["change_minor"],
        status=EntryStatus(row["status"]),
        mode=Mode(row["mode"]),
        accepted_at=row["created_at"],
        updated_at=row["updated_at"],
        reference=row["reference"],
        metadata=None if metadata is None else decode_metadata(metadata),
        attempt_id=row["attempt_id"],
        transfer_id=uuid_of(row.get("transfer_id")),
        other_account_id=row.get("other_account_id"),
        effective_at=row.get("effective_at"),
        reverses=uuid_of(row.get("reverses")),
        hold_id=uuid_of(row.get("hold_id")),
    )


def _balance(row: _Row) -> Balance:
    return Balance(
        account=account_of(row),
        settled_minor=int(row["settled_minor"]),
        pending_debit_minor=int(row["debit_minor"]),
        pending_credit_minor=int(row["credit_minor"]),
        credit_limit_minor=row["credit_limit_minor"],
        held_minor=int(row["held_minor"]),
        version=row["version"],
        last_updated_at=row["last_updated_at"],
    )


def details_of(row: _Row) -> AccountDetails:
    """Read an account's configuration out of a row."""
    return AccountDetails(
        account=account_of(row),
        credit_limit_minor=row["credit_limit_minor"],
        metadata=decode_metadata(row["metadata"]),
        frozen=Frozen(row["frozen"]),
        closed=row["closed"],
        config_version=row["config_version"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
