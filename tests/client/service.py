"""The real service, once for many tests, on servers of its own. Tests keep apart by the names they
use.

It runs in processes of its own: what a test replaces in its own process is not replaced there.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.cluster import Cluster

_numbers = itertools.count(1)  # each folder of tests has its own


class Service(msgspec.Struct):
    """Where it listens, and where its database is, for looking."""

    url: str
    database_url: str


@pytest.fixture(scope="session")
def service(servers_folder: Path) -> Iterator[Service]:
    """The service that the clients' tests share."""
    folder = servers_folder / f"clients_{next(_numbers)}"
    with Cluster(folder, durable=False, environment={"SETTLEMENT_INTERVAL": "100ms"}) as cluster:
        api = cluster.start_api("api")
        cluster.start_worker("worker")
        cluster.wait_ready(api)
        yield Service(api.url, cluster.postgres.url)
