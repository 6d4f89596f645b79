"""The journal: makes one admitted micro-batch durable in one round trip and one commit.

An unknown outcome is resolved by running the same attempt again: it finds its rows or inserts them.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from app import errors
from app.infra.postgres import POSTGRES_ERRORS
from app.ledger.codes import Journaled
from app.ledger.item import Item
from app.ledger.store import QUERIES, SHARD, encode_json

if TYPE_CHECKING:
    from app.infra.postgres import Pool

_PAUSE_FIRST_S = 0.02
_PAUSE_LONGEST_S = 1.0


class JournalOutcome(NamedTuple):
    """What became of an attempt; positions count its items from 0."""

    word: Journaled
    batch_seq: int
    accepted_at: datetime | None
    duplicates: frozenset[int]


class Journal:
    """Writes batches of one shard."""

    def __init__(self, pool: "Pool", timeout_ms: int) -> None:
        """Use a pool whose statements are bounded by the same time-out."""
        self._pool = pool
        self._timeout_s = timeout_ms / 1_000

    async def write(
        self,
        epoch: int,
        attempt_id: int,
        items: Sequence[Item],
        deadline: float,
        *,
        unsure: bool = False,
    ) -> JournalOutcome:
        """Journal an attempt, asking again until its outcome is known or the deadline passes.

        `deadline` is in loop time. `unsure` says that an earlier sending of this attempt was not
        answered: from then on no error tells that nothing was written, only an outcome does.

        Raises `JournalOutcomeUnknown` past the deadline when any sending may have been executed,
        `PostgresUnavailable` when none can have been, `InvariantViolation` when the one and only
        sending was refused.
        """
        arguments = (SHARD, epoch, attempt_id, *_columns(items))
        loop = asyncio.get_running_loop()
        pause = _PAUSE_FIRST_S
        while True:
            try:
                return await self._send(arguments)
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

    async def _send(self, arguments: tuple[Any, ...]) -> JournalOutcome:
        """Send once: `PostgresUnavailable` when it was not sent, `InvariantViolation` when it was
        refused; whatever else is raised leaves the outcome open.
        """
        try:
            connection = await self._pool.acquire(timeout=self._timeout_s)
        except Exception as exc:
            raise errors.PostgresUnavailable(f"no connection: {exc}") from exc
        try:
            row = await connection.fetchrow(QUERIES["journal_batch"], *arguments)
        except POSTGRES_ERRORS:
            raise
        except asyncpg.PostgresError as exc:
            raise errors.InvariantViolation(f"the journal refuses a batch: {exc}") from exc
        finally:
            await self._pool.release(connection, timeout=self._timeout_s)
        return _outcome(row)


def _raise_if_cancelled() -> None:
    """Keep a cancellation that the driver turned into an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _columns(items: Sequence[Item]) -> tuple[Any, ...]:
    """Turn items into the arrays of `journal_batch_v1`; an all-empty column is NULL."""
    requests = [item.request for item in items]
    keys = [
        (position, identity.scope, identity.name)
        for position, item in enumerate(items)
        for identity in item.identities
    ]
    return (
        [item.account.account_no for item in items],
        [item.change_minor for item in items],
        _or_null([request.transaction_id for request in requests]),
        _or_null([request.reference for request in requests]),
        _or_null([_json_or_none(request.metadata) for request in requests]),
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
    )


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
