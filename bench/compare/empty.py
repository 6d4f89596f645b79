"""The ceiling of the HTTP server: reads and decodes a transaction, decides nothing, answers.

The answer has the size and the headers of the service's own.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from app.api.problem import request_id
from app.infra.http import encode
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.codes import EntryStatus, Mode
from app.ledger.model import Account, Transaction
from app.ledger.schemas import TransactionBody, transaction_answer
from bench.compare.bodies import AMOUNT_MINOR, account_id
from bench.compare.serving import Served, ready, serve


def answer_body() -> bytes:
    """Encode an answer as the service would."""
    now = datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)
    transaction_id: UUID = assigned_transaction_id(0, EntryPosition(1, 1))
    transaction = Transaction(
        transaction_id=transaction_id,
        account=Account(1, account_id(1), "USD", 2),
        change_minor=-AMOUNT_MINOR,
        status=EntryStatus.PENDING,
        mode=Mode.REDIS,
        accepted_at=now,
        updated_at=now,
    )
    return encode(transaction_answer(transaction))


@asynccontextmanager
async def opened() -> AsyncIterator[Served]:
    """Make the handler."""
    body = answer_body()
    decode = msgspec.json.Decoder(TransactionBody).decode
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id(None).encode()),
    ]
    start = {"type": "http.response.start", "status": 201, "headers": headers}
    end = {"type": "http.response.body", "body": body, "more_body": False}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await ready(scope, receive, send)
            return
        message = await receive()
        parts = [message["body"]]
        while message["more_body"]:
            message = await receive()
            parts.append(message["body"])
        decode(b"".join(parts))
        await send(start)
        await send(end)

    yield Served(answer)


if __name__ == "__main__":
    serve(int(os.environ["PORT"]), opened)
