"""Sends the rows of an import and keeps what became of each, exactly."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import msgspec

from subbalance import errors
from subbalance.answers import BulkResult, Type
from subbalance.client import Client
from subbalance.command.rows import ACCOUNTS, TRANSACTIONS, Kind, Row, metadata_of
from subbalance.money_calls import NewTransaction


class Became(NamedTuple):
    """What became of one row."""

    row: Row
    word: Literal["accepted", "replayed", "refused", "unclear"]
    code: str = ""
    reason: str = ""


class Report(msgspec.Struct, kw_only=True):
    """How many rows there were and what became of them."""

    rows: int = 0
    accepted: int = 0
    replayed: int = 0
    refused: int = 0
    unclear: int = 0
    not_sent: int = 0
    bad: int = 0
    refused_file: str | None = None


class Sending:
    """Sends rows of one kind: transactions many in a request, all else one by one."""

    def __init__(self, ledger: Client, kind: Kind, batch_rows: int, at_once: int) -> None:
        self._ledger = ledger
        self._kind = kind
        self._batch_rows = batch_rows
        self._at_once = at_once

    def send(self, rows: Iterable[Row], unclear_max: int) -> Iterator[Became]:
        """Send rows in order until all are sent, or that many requests had no clear answer."""
        with ThreadPoolExecutor(self._at_once) as pool:
            unclear_count = 0
            for chunk in _chunks(rows, self._chunk_rows):
                became = self._send_chunk(chunk, pool)
                yield from became
                unclear = [each for each in became if each.word == "unclear"]
                unclear_count += bool(unclear) if self._kind is TRANSACTIONS else len(unclear)
                if unclear_count >= unclear_max:
                    return

    @property
    def _chunk_rows(self) -> int:
        return self._batch_rows if self._kind is TRANSACTIONS else self._at_once

    def _send_chunk(self, chunk: list[Row], pool: ThreadPoolExecutor) -> list[Became]:
        if self._kind is TRANSACTIONS:
            return self._post(chunk)
        send = self._open if self._kind is ACCOUNTS else self._transfer
        return list(pool.map(lambda row: _became(row, send), chunk))

    def _post(self, chunk: list[Row]) -> list[Became]:
        """Send a bulk request; one that is refused as a whole ends the import."""
        try:
            answer = self._ledger.post_bulk([_transaction(row) for row in chunk])
        except errors.Rejected:
            raise
        except errors.LedgerError as error:
            return [Became(row, "unclear", error.code, error.detail) for row in chunk]
        return [_of_result(row, each) for row, each in zip(chunk, answer.results, strict=True)]

    def _open(self, row: Row) -> bool:
        values = row.values
        account = self._ledger.open_account(
            values["account_id"],
            currency=values.get("currency"),
            opening_balance=values.get("opening_balance", "0"),
            credit_limit=values.get("credit_limit", "0"),
            metadata=metadata_of(values),
        )
        return account.replayed

    def _transfer(self, row: Row) -> bool:
        values = row.values
        transfer = self._ledger.transfer(
            values["debit_account_id"],
            values["credit_account_id"],
            values["amount"],
            key=row.key,
            reference=values.get("reference"),
            metadata=metadata_of(values),
        )
        return transfer.replayed


def _became(row: Row, send: Callable[[Row], bool]) -> Became:
    """Send one row. A refusal after an unclear attempt is not the last word on it."""
    try:
        return Became(row, "replayed" if send(row) else "accepted")
    except errors.Rejected as error:
        word: Literal["refused", "unclear"] = "unclear" if error.earlier_unclear else "refused"
        return Became(row, word, error.code, error.detail)
    except errors.LedgerError as error:
        return Became(row, "unclear", error.code, error.detail)


def _of_result(row: Row, result: BulkResult) -> Became:
    problem = result.problem
    if problem is not None:
        return Became(
            row, "unclear" if problem.retryable else "refused", problem.code, problem.detail
        )
    return Became(row, "replayed" if result.replayed else "accepted")


def _transaction(row: Row) -> NewTransaction:
    values = row.values
    direction: Type = "debit" if values["type"] == "debit" else "credit"
    return NewTransaction(
        values["account_id"],
        direction,
        values["amount"],
        key=row.key,
        reference=values.get("reference"),
        metadata=metadata_of(values),
        effective_at=values.get("effective_at"),
    )


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(itertools.islice(left, size)):
        yield chunk
