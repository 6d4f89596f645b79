"""The journal: makes one micro-batch durable in one round trip and one commit, admitted by Redis
before or decided in the same call.

An unknown outcome is resolved by running the same attempt again: it finds its rows or inserts them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from app import errors, limits
from app.infra.postgres import POSTGRES_ERRORS
from app.ledger.admission import Slot
from app.ledger.answers import fail
from app.ledger.codes import Decided, Journaled
from app.ledger.item import Item
from app.ledger.mode import Ruling
from app.ledger.outcomes import NO_CLAIM, Claim, DecidedOutcome, JournalOutcome
from app.ledger.store import QUERIES, SHARD, encode_json
from app.ledger.unit import numbers_of

if TYPE_CHECKING:
    from app.infra.postgres import Pool

_PAUSE_FIRST_S = 0.02
_PAUSE_LONGEST_S = 1.0
T = TypeVar("T")


class Journal:
    """Writes batches of one shard."""

    def __init__(self, pool: "Pool", timeout_ms: int) -> None:
        """Use a pool whose statements are bounded by the same time-out."""
        self._pool = pool
        self._timeout_s = timeout_ms / 1_000
        self._idle: list[Any] = []

    async def close(self) -> None:
        """Give back the connections that are kept between batches."""
        while self._idle:
            await self._pool.release(self._idle.pop(), timeout=self._timeout_s)

    async def write(
        self,
        ruling: Ruling,
        attempt_id: int,
        items: Sequence[Item],
        deadline: float,
        *,
        unsure: bool = False,
        claim: Claim = NO_CLAIM,
    ) -> JournalOutcome:
        """Journal an attempt that Redis admitted; see `_until_answered` for what it raises."""
        columns = _columns(items)

        def arguments(_: bool) -> tuple[Any, ...]:
            return (SHARD, ruling.epoch, ruling.token, attempt_id, *claim, *columns)

        return _outcome(
            await self._until_answered("journal_batch", arguments, deadline, unsure=unsure)
        )

    async def decide(
        self,
        ruling: Ruling,
        attempt_id: int,
        items: Sequence[Item],
        deadline: float,
        *,
        unsure: bool = False,
        claim: Claim = NO_CLAIM,
        positions: Sequence[int] | None = None,
    ) -> DecidedOutcome:
        """Decide and journal an attempt in PostgreSQL; see `_until_answered`.

        `positions` are those that a claim's refusals name the items by.
        """
        columns = _columns(items)

        def arguments(is_repeated: bool) -> tuple[Any, ...]:
            return (
                SHARD,
                ruling.epoch,
                ruling.token,
                attempt_id,
                is_repeated,
                limits.BALANCE_MINOR_MAX,
                *claim,
                positions,
                *columns,
                *_expected(items),
            )

        return _decided(
            await self._until_answered("decide_batch", arguments, deadline, unsure=unsure)
        )

    async def _until_answered(
        self,
        query: str,
        arguments: Callable[[bool], tuple[Any, ...]],
        deadline: float,
        *,
        unsure: bool,
    ) -> Any:
        """Ask again until the outcome is known or the deadline passes.

        `deadline` is in loop time. `unsure` says that an earlier sending of this attempt was not
        answered: from then on no error tells that nothing was written, only an outcome does.

        Raises `JournalOutcomeUnknown` past the deadline when any sending may have been executed,
        `PostgresUnavailable` when none can have been, `InvariantViolation` when the one and only
        sending was refused.
        """
        loop = asyncio.get_running_loop()
        pause = _PAUSE_FIRST_S
        while True:
            try:
                return await self._send(query, arguments(unsure))
            except errors.PostgresUnavailable as exc:
                failure: Exception = exc
            except errors.InvariantViolation as exc:
                if not unsure:
                    raise
                failure = exc
            except Exception as exc:
                failure, unsure = exc, True
            _raise_if_cancelled()
            if loop.time() + pause >= deadline:
                if unsure:
                    raise errors.JournalOutcomeUnknown from failure
                raise errors.PostgresUnavailable from failure
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_LONGEST_S)

    async def _send(self, query: str, arguments: tuple[Any, ...]) -> Any:
        """Send once: `PostgresUnavailable` when it was not sent, `InvariantViolation` when it was
        refused; whatever else is raised leaves the outcome open.
        """
        connection = await self._connection()
        try:
            row = await connection.fetchrow(QUERIES[query], *arguments)
        except BaseException as exc:
            await self._pool.release(connection, timeout=self._timeout_s)
            if isinstance(exc, asyncpg.PostgresError) and not isinstance(exc, POSTGRES_ERRORS):
                raise errors.InvariantViolation(f"the journal refuses a batch: {exc}") from exc
            raise
        self._idle.append(connection)
        return row

    async def _connection(self) -> Any:
        """Take a connection that is kept, for the pool's own book-keeping costs as much as a round
        trip; no more are kept than batches are in flight.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            await self._pool.release(connection, timeout=self._timeout_s)
        try:
            return await self._pool.acquire(timeout=self._timeout_s)
        except Exception as exc:
            raise errors.PostgresUnavailable(f"no connection: {exc}") from exc


async def until_known(
    slot: Slot,
    items: Sequence[Item],
    bystanders: Iterable[Item],
    ask: Callable[[float, bool], Awaitable[T]],
) -> T:
    """Ask for an attempt's outcome; past the clients' deadline they learn that it is unknown, and
    the slot, owing an answer, goes on asking until it is known.

    `ask` is given a deadline in loop time and whether a sending was left unanswered.
    """
    deadline, unsure = min(item.deadline for item in items), False
    try:
        while True:
            try:
                return await ask(deadline, unsure)
            except errors.JournalOutcomeUnknown as error:
                fail(items, error)
                fail(bystanders, errors.PostgresUnavailable())
                slot.owes, unsure = errors.PostgresUnavailable(), True
                deadline = asyncio.get_running_loop().time() + _PAUSE_LONGEST_S
    finally:
        slot.owes = None


def _raise_if_cancelled() -> None:
    """Keep a cancellation that the driver turned into an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _columns(items: Sequence[Item]) -> tuple[Any, ...]:
    """Turn items into what the queries take; an all-empty column is NULL.

    Names hold no space: keys are visible ASCII.
    """
    requests = [item.request for item in items]
    keys = [
        (position, identity.scope, identity.name)
        for position, item in enumerate(items)
        for identity in item.claims
    ]
    return (
        " ".join([str(item.account.account_no) for item in items]),
        " ".join([str(item.change_minor) for item in items]),
        _or_null([request.transaction_id for request in requests]),
        _or_null([request.reference for request in requests]),
        _or_null([_json_or_none(request.metadata) for request in requests]),
        " ".join([str(key[0]) for key in keys]),
        " ".join([str(key[1]) for key in keys]),
        " ".join([key[2] for key in keys]),
        *numbers_of(items),
        _or_null([request.effective_at for request in requests]),
        _or_null([request.reverses for request in requests]),
    )


def _expected(items: Sequence[Item]) -> tuple[list[int | None] | None, list[int | None] | None]:
    """What items expect of their accounts: versions and available amounts, as `decide_batch` takes
    them.
    """
    expected = [item.expected or (None, None) for item in items]
    versions = [version for version, _ in expected]
    return _or_null(versions), _or_null([available for _, available in expected])


def _or_null(column: list[Any]) -> list[Any] | None:
    return column if any(value is not None for value in column) else None


def _json_or_none(metadata: dict[str, str] | None) -> str | None:
    return encode_json(metadata).decode() if metadata else None


def _outcome(row: Any) -> JournalOutcome:
    return JournalOutcome(
        word=Journaled(row["outcome"]),
        batch_seq=row["accepted_seq"] or 0,
        accepted_at=row["accepted_at"],
        duplicates=frozenset(row["duplicate_items"] or ()),
    )


def _decided(row: Any) -> DecidedOutcome:
    return DecidedOutcome(
        word=Journaled(row["outcome"]),
        batch_seq=row["accepted_seq"] or 0,
        accepted_at=row["accepted_at"],
        words=[Decided(word) for word in row["words"] or ()],
        availables=[None if figure is None else int(figure) for figure in row["availables"] or ()],
    )
