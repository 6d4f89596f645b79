"""The service a load is put on: the one that runs, or a private one with servers of its own."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from app.run import DATA_FOLDER
from bench.load.mix import HOST
from tests.cluster import is_ready
from tests.drills.service import Options, private_cluster, start_service

_PORT = 8082
_PROBE_TIMEOUT_S = 2.0
# A load asks a lot at once; what the service logs of each refusal would be measured too.
_PRIVATE_SETTINGS = {"LOG_LEVEL": "warning"}


class ServiceError(Exception):
    """There is no service that a load could be put on."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a load is to run; `url` names a running service, else `PORT` does."""

    url: str = ""
    private: bool = False
    instances: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that decides transactions; its servers' addresses where they are known."""

    urls: tuple[str, ...]
    is_private: bool
    database_url: str = ""
    redis_url: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What it is, for a report."""
        if not self.is_private:
            return f"the running service at {self.urls[0]}"
        count = len(self.urls)
        processes = "1 API process" if count == 1 else f"{count} API processes"
        return f"a private service ({processes}, 1 worker) on private servers"


@asynccontextmanager
async def open_service(place: Place, say: Callable[[str], None]) -> AsyncIterator[Service]:
    """The running service, or a private one that is gone afterwards."""
    running = None if place.private else _running(place.url)
    if running is not None:
        yield running
        return
    say("starting a private service on private servers ...")
    options = Options(environment={**_PRIVATE_SETTINGS, **place.settings})
    with private_cluster(options, {}) as cluster:
        urls = await start_service(cluster, place.instances)
        yield Service(
            urls=tuple(urls),
            is_private=True,
            database_url=cluster.postgres.url,
            redis_url=cluster.redis.url,
            settings=options.environment,
        )


def _running(url: str) -> Service | None:
    """The service that answers where it should; None when nothing listens there at all."""
    wanted = url or f"http://{HOST}:{os.environ.get('PORT', _PORT)}"
    if is_ready(wanted):
        database_url, redis_url = _servers()
        return Service(
            urls=(wanted,), is_private=False, database_url=database_url, redis_url=redis_url
        )
    if url or _listens(wanted):
        raise ServiceError(f"the service at {wanted} is not ready")
    return None


def _listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port), _PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def _servers() -> tuple[str, str]:
    """The servers' addresses, of the environment or of this checkout's `make run`; may be empty."""
    note = DATA_FOLDER / "servers"
    noted = note.read_text().splitlines() if note.exists() else ["", ""]
    return (
        os.environ.get("DATABASE_URL", noted[0]),
        os.environ.get("REDIS_URL", noted[1]),
    )
