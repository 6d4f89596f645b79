"""Reading requests and writing answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from app.kit.decoding import decode_json, decode_msgpack
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.bulk import Answered
from app.ledger.bulk_schemas import BulkAnswer, BulkBody, bulk_results
from app.ledger.codes import EntryStatus, Mode
from app.ledger.hot_routes import Sent
from app.ledger.model import Acceptance, Account, Transaction
from app.ledger.routes import accepted_body, transaction_request
from bench.compare.bodies import AMOUNT_MINOR, account_id, bodies
from bench.compare.samples import SERVICE, Cell
from bench.speed.conftest import per_item

NOW = datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)
ACCOUNT = Account(1, account_id(0), "USD", 2)
READERS: dict[str, Callable[[bytes], BulkBody]] = {
    "json": partial(decode_json, msgspec.json.Decoder(BulkBody)),
    "msgpack": partial(decode_msgpack, msgspec.msgpack.Decoder(BulkBody)),
}
WRITERS: dict[str, Callable[[BulkAnswer], bytes]] = {
    "json": msgspec.json.Encoder().encode,
    "msgpack": msgspec.msgpack.Encoder().encode,
}


def accepted(number: int) -> Acceptance:
    """An accepted transaction."""
    transaction = Transaction(
        transaction_id=assigned_transaction_id(0, EntryPosition(1, number)),
        account=ACCOUNT,
        change_minor=-AMOUNT_MINOR,
        status=EntryStatus.PENDING,
        mode=Mode.REDIS,
        accepted_at=NOW,
        updated_at=NOW,
    )
    return Acceptance(transaction, replayed=False)


def test_read_and_check_a_request(benchmark: Any) -> None:
    """Decode and check a single request."""
    (body,) = bodies(Cell(SERVICE, 1, 1))
    sent = Sent("application/json", "key-0000000001", body)
    request = benchmark(transaction_request, sent)
    assert request.account_id == ACCOUNT.account_id


def test_write_an_answer(benchmark: Any) -> None:
    """Encode a single answer."""
    assert benchmark(accepted_body, accepted(1)).startswith(b'{"success":true')


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_read_and_check_a_bulk_request(benchmark: Any, size: int, encoding: str) -> None:
    """Decode and check a request of many."""
    (body,) = bodies(Cell(SERVICE, 1, 1, max(2, size), "item", encoding))
    read = READERS[encoding]
    per_item(benchmark, max(2, size))
    assert len(benchmark(lambda: read(body).to_asked(None))) == max(2, size)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_write_a_bulk_answer(benchmark: Any, size: int, encoding: str) -> None:
    """Encode the answer to a request of many."""
    answers: Answered = [accepted(number) for number in range(size)]
    write = WRITERS[encoding]
    per_item(benchmark, size)
    assert benchmark(lambda: write(BulkAnswer(results=bulk_results(answers))))
