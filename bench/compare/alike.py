"""Asked before anything is measured: whether all answer alike, and which ways in there are."""

import http.client
import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from app.ledger.routes import TRANSACTION
from bench.compare.bodies import AMOUNT, BATCH_PATH, account_id
from bench.compare.books import require
from bench.compare.contestants import Contestant, Empty, Naive, Service
from bench.compare.samples import Cell, Figures

_TIMEOUT_S = 30
_CREATED = 201
_NO_SUCH_WAY = (404, 405, 415)
_ONE = Figures(1, 0, 0, 1, 1, 1, 1, 1)
_REPLAYED = "idempotency-replayed"


class Answer(NamedTuple):
    """What can be told of an answer without reading it."""

    status: int
    headers: frozenset[str]
    body_bytes: int


def require_alike(contestants: Mapping[str, Contestant]) -> None:
    """End the run unless all answer with the same headers and as many bytes, and a repetition of a
    key moves nothing.
    """
    first: Answer | None = None
    for competitor, contestant in contestants.items():
        if not isinstance(contestant, (Empty, Naive, Service)):
            continue
        url, cell = contestant.api.url, Cell(competitor, 1, 0)
        answer, again = (_post(url, "alike-000000") for _ in range(2))
        is_empty = isinstance(contestant, Empty)
        require(cell, _ONE, {
            **({} if is_empty else contestant.check(cell, _ONE)),
            "created": answer.status == again.status == _CREATED,
            "a repetition is told": is_empty or _REPLAYED in again.headers - answer.headers,
        })  # fmt: skip
        # The modes have names of different lengths, and so may have request ids.
        first = first or answer
        close = abs(answer.body_bytes - first.body_bytes) < len("postgres")
        if not close or answer.headers != first.headers:
            raise SystemExit(f"{competitor} answers otherwise: {answer}, not {first}")


def has_batches(service: Service, encoding: str) -> bool:
    """Tell whether the service takes batches in an encoding."""
    encode = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}[encoding]
    transaction = {"account_id": account_id(0), "amount": "0", "type": "debit"}
    body = encode({"transactions": [transaction]})
    answer = _send(service.api.url, BATCH_PATH, body, {"Content-Type": f"application/{encoding}"})
    return answer.status not in _NO_SUCH_WAY


def _post(url: str, key: str) -> Answer:
    body = {"account_id": account_id(0), "amount": AMOUNT, "type": "debit"}
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return _send(url, TRANSACTION.path, json.dumps(body).encode(), headers)


def _send(url: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=_TIMEOUT_S
    )
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        names = frozenset(name.lower() for name, _ in answer.getheaders())
        return Answer(answer.status, names, len(answer.read()))
    finally:
        connection.close()
