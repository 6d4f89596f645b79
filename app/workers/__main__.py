"""`python -m app.workers`: settles, recovers and cleans up until it is told to stop.

Several may run; an advisory lock makes one of them lead and the others stand by. `--once` settles
what is pending now and ends, whoever leads.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys

from app import errors
from app.bootstrap import open_worker_services
from app.infra.log import masked, start_log
from app.infra.metrics_server import serving_metrics
from app.infra.telemetry import exposition
from app.ledger.instruments import Instruments, observing
from app.settings import Settings, load_settings
from app.workers.loops import work_always

_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


async def run_worker(settings: Settings, instruments: Instruments) -> None:
    """Run all loops until SIGTERM or SIGINT; a chunk under way is finished or rolled back.

    While PostgreSQL is not there it waits for it.
    """
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    rules = settings.observation

    async def metrics() -> bytes:
        return exposition(instruments.collect())

    async with serving_metrics(rules.metrics_host, rules.worker_metrics_port, metrics):
        while not stopping.is_set():
            try:
                async with open_worker_services(settings, instruments) as services:
                    work = asyncio.create_task(work_always(services))
                    await stopping.wait()
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
            except errors.Unavailable as error:
                _log.warning("waits: %s", error.detail)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), _PAUSE_S)


async def settle_once(settings: Settings) -> None:
    """Settle what is pending and say how much it was."""
    async with open_worker_services(settings) as services:
        settled = await services.settler.settle()
        print(f"settled {settled.entries} movements in {settled.batches} batches")


def main(arguments: list[str]) -> int:
    """Run the worker, or settle once; 0 when it ended as told."""
    if arguments not in ([], ["--once"]):
        print("usage: python -m app.workers [--once]", file=sys.stderr)
        return 2
    try:
        settings = load_settings(os.environ)
        if arguments:
            start_log("worker", "warning", dict, stream=sys.stderr)
            asyncio.run(settle_once(settings))
        else:
            with observing("worker", "worker", settings) as instruments:
                asyncio.run(run_worker(settings, instruments))
    except errors.LedgerError as error:
        print(f"error: {masked(error.detail)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
