"""`python -m app.workers`: runs the settler until it is told to stop.

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
from app.settings import Settings, load_settings
from app.workers.loops import keep_partitions, settle_as_leader

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


async def run_worker(settings: Settings) -> None:
    """Run all loops until SIGTERM or SIGINT; a chunk under way is finished or rolled back."""
    async with open_worker_services(settings) as services:
        loops = [
            asyncio.create_task(settle_as_leader(services)),
            asyncio.create_task(keep_partitions(services)),
        ]
        stopping = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
        await stopping.wait()
        for loop in loops:
            loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*loops, return_exceptions=True)


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
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        asyncio.run(settle_once(settings) if arguments else run_worker(settings))
    except errors.LedgerError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
