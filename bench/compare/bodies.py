"""The bodies of requests, prepared once so that the generator of load only puts keys into them."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from app.ledger.routes import TRANSACTION
from bench.compare.samples import HOLDS, TRANSFERS, Cell

BATCH_PATH = "/api/v1/transactions"
TRANSFER_PATH, GROUP_PATH, HOLD_PATH = "/api/v1/transfers", "/api/v1/groups", "/api/v1/holds"
# `bench/wrk_requests.lua` puts a key of this length in its place.
KEY_PLACE = "K" * 24
AMOUNT = "0.01"
AMOUNT_MINOR = 1
_TYPES = {"json": "application/json", "msgpack": "application/msgpack"}
_BATCHES_MIN = 8
_encode = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}


def account_id(number: int) -> str:
    """Name an account; all names are as long as one another, so all bodies are."""
    return f"B{number:06}"


def path_of(cell: Cell) -> str:
    """Where a cell's requests go."""
    if cell.kind == TRANSFERS:
        return TRANSFER_PATH if cell.items == 1 else GROUP_PATH
    if cell.kind == HOLDS:
        return HOLD_PATH
    return TRANSACTION.path if cell.items == 1 else BATCH_PATH


def content_type(cell: Cell) -> str:
    """What a cell's bodies are."""
    return _TYPES[cell.encoding]


def bodies(cell: Cell) -> list[bytes]:
    """Make bodies that together touch every account of a cell equally often, in a fixed order."""
    order = [account_id(number) for number in range(cell.accounts)]
    random.Random(1).shuffle(order)
    encode = _encode[cell.encoding]
    if cell.kind == TRANSFERS:
        return [encode(_transfers(cell, order, first)) for first in range(cell.accounts)]
    if cell.kind == HOLDS:
        return [encode({"account_id": name, "amount": AMOUNT}) for name in order]
    if cell.items == 1:
        return [encode(_transaction(name)) for name in order]
    count = max(_BATCHES_MIN, -(-cell.accounts // cell.items)) if cell.accounts > 1 else 1
    return [encode(_batch(cell, order, first * cell.items)) for first in range(count)]


def write_bodies(folder: Path, cell: Cell) -> Path:
    """Write a cell's bodies, each after its length; cells with the same bodies share the file."""
    name = f"{cell.kind}-{cell.accounts}-{cell.items}-{cell.keys}-{cell.encoding}"
    path = folder / f"bodies-{name}"
    if not path.exists():
        path.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies(cell)))
    return path


def _transaction(name: str) -> dict[str, str]:
    return {"account_id": name, "amount": AMOUNT, "type": "debit"}


def _transfers(cell: Cell, order: list[str], first: int) -> dict[str, Any]:
    """One transfer from each account to the next, or so many from there on."""
    names = [order[(first + item) % len(order)] for item in range(cell.items + 1)]
    found = [
        {"debit_account_id": debit, "credit_account_id": credit, "amount": AMOUNT}
        for debit, credit in pairwise(names)
    ]
    return found[0] if cell.items == 1 else {"transfers": found}


def _batch(cell: Cell, order: list[str], first: int) -> dict[str, list[dict[str, str]]]:
    transactions = [_transaction(order[(first + item) % len(order)]) for item in range(cell.items)]
    if cell.keys == "item":
        for item, transaction in enumerate(transactions):
            transaction["idempotency_key"] = f"{KEY_PLACE}-{item:04}"
    return {"transactions": transactions}
