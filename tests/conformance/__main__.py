"""`python -m tests.conformance --programs 10000`: random programs through all three engines.

The service decides by Redis, by PostgreSQL and by both in turns, each on servers of its own. Every
answer must be the reference's, and the books are verified at the end.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg

from app.infra.embedded import start_postgres, start_redis
from app.infra.migrations import migrate
from app.settings import Http, Ledger, Postgres, Redis, Settings
from tests.conformance.running import ENGINES, Difference, Programs

_AT_ONCE = 8
_VERIFY_EVERY = 500
_SWITCHES = 0.005


async def run_engine(settings: Settings, engine: str, seeds: range, step_count: int) -> str:
    """Run programs on one engine, several at once; returns a line that says what was done."""
    left = iter(seeds)
    done = 0
    async with Programs.on(settings, engine, _SWITCHES) as programs:

        async def some(worker: int) -> None:
            nonlocal done
            for seed in left:
                await programs.run(seed, step_count, f"p{seed}.")
                done += 1
                if worker == 0 and done % _VERIFY_EVERY < _AT_ONCE:
                    print(f"{engine}: {done} programs", flush=True)

        async with asyncio.TaskGroup() as group:
            for worker in range(_AT_ONCE):
                group.create_task(some(worker))
        await programs.worker.settler.settle()
        verification = await programs.services.ledger.verify()
        if verification.mismatches:
            raise Difference(f"{engine}: {verification.mismatches}")
        words = ", ".join(f"{word} {count}" for word, count in sorted(programs.answers.items()))
    return f"{engine}: {done} programs of {step_count} steps, no difference: {words}"


async def run_all(folder: Path, seeds: range, step_count: int) -> None:
    """Run all engines side by side, each on a PostgreSQL database and a Redis of its own."""
    postgres = start_postgres(folder / "postgres", print, durable=False)
    redises = [start_redis(folder / f"redis-{engine}") for engine in ENGINES]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for engine, redis in zip(ENGINES, redises, strict=True):
                admin = await asyncpg.connect(postgres.url)
                await admin.execute(f"CREATE DATABASE conformance_{engine}")
                await admin.close()
                base, _, options = postgres.url.partition("?")
                url = f"{base.rsplit('/', 1)[0]}/conformance_{engine}?{options}"
                connection = await asyncpg.connect(url)
                await migrate(connection)
                await connection.close()
                settings = Settings(
                    http=Http(port=0),
                    redis=Redis(url=redis.url),
                    postgres=Postgres(url=url),
                    ledger=Ledger(settlement_interval_ms=100),
                    log_level="error",
                )
                tasks.append(group.create_task(run_engine(settings, engine, seeds, step_count)))
        for task in tasks:
            print(task.result())
    finally:
        for redis in redises:
            redis.stop()
        postgres.stop()


def main() -> None:
    """Run what the command line asks for; ends with an error at the first difference."""
    parser = argparse.ArgumentParser(description="random programs through all three engines")
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--first-seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        Path(folder).chmod(0o755)
        seeds = range(asked.first_seed, asked.first_seed + asked.programs)
        asyncio.run(run_all(Path(folder), seeds, asked.steps))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
