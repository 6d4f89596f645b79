"""Latencies of requests over HTTP, one after the other on one connection."""

import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_TIMEOUT_S = 60
_WARM_UPS = 3
Ask = Callable[[str, str, str | None, dict[str, str]], float]


def read_ms(url: str, paths: list[str]) -> float:
    """The median latency in milliseconds of reading paths in turn; every answer must be 200."""
    with _asking(url, http.client.OK) as ask:
        took = [ask("GET", path, None, {}) for path in [*paths[:_WARM_UPS], *paths]]
    return statistics.median(took[len(paths[:_WARM_UPS]) :])


def repeat_ms(url: str, account_id: str, repeats: int) -> float:
    """The median latency of a request that was accepted before: it is found by its key."""
    body = json.dumps({"account_id": account_id, "amount": "0.01", "type": "debit"})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "asked-again-and-again"}
    with _asking(url, http.client.CREATED) as ask:
        took = [ask("POST", "/api/v1/transaction", body, headers) for _ in range(repeats + 1)]
    return statistics.median(took[1:])


@contextmanager
def _asking(url: str, expected: int) -> Iterator[Ask]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=_TIMEOUT_S
    )

    def ask(method: str, path: str, body: str | None, headers: dict[str, str]) -> float:
        started = time.perf_counter()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != expected:
            raise SystemExit(f"{path}: {answer.status}")
        return (time.perf_counter() - started) * 1_000

    try:
        yield ask
    finally:
        connection.close()
