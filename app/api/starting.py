"""Stands in for the ledger until it is open, and opens it as soon as PostgreSQL lets it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NoReturn

from app import errors
from app.bootstrap import Services, open_services
from app.ledger.instruments import Instruments
from app.ledger.model import ComponentHealth, LedgerHealth
from app.security.key_ring import KeyRing
from app.settings import Settings

_PAUSE_S = 0.5
_log = logging.getLogger(__name__)


class StartingLedger:
    """Answers health questions, and everything else with `Starting`."""

    def __init__(self) -> None:
        """Begin before the first attempt."""
        self.waits_for = "PostgreSQL"

    async def health(self) -> LedgerHealth:
        """Say what is waited for."""
        return LedgerHealth(
            components={"postgres": ComponentHealth(ok=False, detail=self.waits_for)},
            mode="unknown",
            epoch=0,
            settler_lag_ms=-1,
            queue_items=0,
            ready=False,
            features={},
            controls=None,
            consistency=None,
        )

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse every other use case for now."""
        raise errors.Starting


class StartingServices:
    """Stands in for all services."""

    def __init__(self) -> None:
        """Begin before the first attempt."""
        self.ledger = self.events = self.dashboard = StartingLedger()


class Opening:
    """Keeps the ledger open from when it can be until it is told to close."""

    def __init__(
        self,
        settings: Settings,
        set_services: Callable[[Services | StartingServices], Any],
        key_ring: KeyRing | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        """`set_services` is given the stand-in at once and the services when they are open."""
        self._settings = settings
        self._instruments = instruments
        self._set_services = set_services
        self._key_ring = key_ring
        self._starting = StartingServices()
        self._tried = asyncio.Event()
        self._closing = asyncio.Event()
        set_services(self._starting)
        self._task = asyncio.create_task(self._keep_open())

    async def first_attempt(self) -> None:
        """Wait until it is open or has to wait; raises what no waiting would mend."""
        tried = asyncio.create_task(self._tried.wait())
        await asyncio.wait({tried, self._task}, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Close the ledger; whoever waits is answered first."""
        self._closing.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_open(self) -> None:
        while not self._closing.is_set():
            try:
                opened = open_services(self._settings, self._key_ring, self._instruments)
                async with opened as services:
                    self._set_services(services)
                    self._tried.set()
                    await self._closing.wait()
                    self._set_services(self._starting)
                return
            except errors.LedgerError as error:
                is_outdated = isinstance(error, errors.InstanceOutdated)
                may_end = isinstance(error, errors.Unavailable) and not is_outdated
                if not may_end and not self._tried.is_set():
                    raise
                if error.detail != self._starting.ledger.waits_for:
                    _log.warning("waits: %s", error.detail)
                self._starting.ledger.waits_for = error.detail
            except Exception:
                if not self._tried.is_set():
                    raise
                _log.exception("the ledger could not be opened")
            self._tried.set()
            try:
                async with asyncio.timeout(_PAUSE_S):
                    await self._closing.wait()
            except TimeoutError:
                continue
