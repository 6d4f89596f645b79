"""The real service for both clients, and a policy that does not wait long."""

import itertools
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from subbalance import AsyncClient, Client, Policy
from tests.client.calling import Ledger
from tests.client.service import Service, service

__all__ = ["service"]
_numbers = itertools.count(1)

QUICK = Policy(attempts=4, timeout_s=5.0, deadline_s=20.0, backoff_s=0.01, backoff_max_s=0.05)


@pytest.fixture
def url(service: Service) -> str:
    """Where the real service listens."""
    return service.url


@pytest.fixture
def a() -> str:
    """An account's name, and a beginning of keys, that no other test has."""
    return f"A{next(_numbers)}"


@pytest.fixture
def b(a: str) -> str:
    """The name of a second account."""
    return a.replace("A", "B")


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Ledger]]:
    """Make clients of either kind, which are called in one way."""
    opened: list[Ledger] = []

    def connected(url: str, policy: Policy = QUICK, **more: Any) -> Ledger:
        kind = Client if request.param == "sync" else AsyncClient
        opened.append(Ledger(kind(url, policy=policy, **more)))
        return opened[-1]

    yield connected
    for each in opened:
        await each.close()


@pytest.fixture
def ledger(connect: Callable[..., Ledger], url: str) -> Ledger:
    """A client of the real service, of either kind."""
    return connect(url)


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
