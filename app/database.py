"""`python -m app.database`: looks after PostgreSQL: `optimize`, `monitor`, `pending`.

It reads catalogues and statistics and changes no row. `optimize` builds the indexes of
`sql/indexes.sql` that are missing or broken without keeping writers out, refreshes statistics, and
vacuums what has many dead rows. Whatever it prints is bounded.
"""

import asyncio
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.errors import LedgerError
from app.infra.files import shipped
from app.infra.queries import load_queries
from app.settings import load_settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

INDEXES = shipped("sql") / "indexes.sql"
_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX (\w+) ON (ONLY )?(?:public\.)?(\w+) (USING .+);")
_DEAD_ROWS_MIN: Final = 1_000
_DEAD_SHARE_MIN: Final = 0.1
_LOCK_TIMEOUT: Final = "2s"
_CELL_MAX: Final = 70
_NAME_MAX: Final = 63
_STATEMENTS: Final = """
    SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), 60) AS statement, calls,
           round(mean_exec_time::numeric, 2) AS mean_ms, round(total_exec_time::numeric) AS total_ms
      FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 10"""


async def optimize(connection: "Connection") -> None:
    """Build what is missing, analyze, vacuum; say what was done."""
    queries = load_queries("upkeep")
    await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    done = 0
    for unique, name, table, columns in expected_indexes(INDEXES.read_text()):
        done += await _build_index(connection, unique, name, table, columns)
    print(f"indexes: {done} built, every other one of {INDEXES.name} is there and valid")
    tables = [row["table"] for row in await connection.fetch(queries["upkeep_tables"].sql)]
    for table in tables:
        await connection.execute(f'ANALYZE "{table}"')
    print(f"statistics: {len(tables)} tables analyzed")
    bloated = await connection.fetch(queries["upkeep_bloat"].sql, _DEAD_ROWS_MIN, _DEAD_SHARE_MIN)
    for row in bloated:
        await connection.execute(f'VACUUM (ANALYZE) "{row["table"]}"')
        print(f"vacuumed {row['table']}: {row['dead']} dead rows beside {row['live']}")
    if not bloated:
        print("vacuum: no table has many dead rows")


def expected_indexes(text: str) -> Iterator[tuple[str, str, str, str]]:
    """The statements of the file: UNIQUE or nothing, the index, its table, what it is of."""
    for line in text.splitlines():
        match = _INDEX.fullmatch(line)
        if match is not None:
            yield match[1] or "", match[2], match[4], match[5]


async def _build_index(
    connection: "Connection", unique: str, name: str, table: str, columns: str
) -> bool:
    """Build an index that is missing, or again one that is not valid; tells whether it had to."""
    queries = load_queries("upkeep")
    valid = await connection.fetchval(queries["upkeep_index"].sql, name)
    if valid:
        return False
    leaves = [row["table"] for row in await connection.fetch(queries["upkeep_leaves"].sql, table)]
    if valid is not None:
        await connection.execute(f'DROP INDEX {"" if leaves else "CONCURRENTLY"} "{name}"')
    if not leaves:
        await connection.execute(
            f'CREATE {unique}INDEX CONCURRENTLY "{name}" ON "{table}" {columns}'
        )
        print(f"built {name} on {table}")
        return True
    # The index of the whole table takes these, and builds none while it has its lock.
    for leaf in leaves:
        own = f"{leaf}_{name}"[:_NAME_MAX]
        if await connection.fetchval(queries["upkeep_index"].sql, own) is False:
            await connection.execute(f'DROP INDEX CONCURRENTLY "{own}"')
        target = f'IF NOT EXISTS "{own}" ON "{leaf}" {columns}'
        await connection.execute(f"CREATE {unique}INDEX CONCURRENTLY {target}")
    await connection.execute(f'CREATE {unique}INDEX "{name}" ON "{table}" {columns}')
    print(f"built {name} on {table} and its {len(leaves)} partitions")
    return True


async def monitor(connection: "Connection") -> None:
    """Show sizes, use of indexes, dead rows, the cache, and slow statements."""
    queries = load_queries("upkeep")
    for title, name in (
        ("Largest tables", "upkeep_sizes"),
        ("Indexes by size, and how often they were read", "upkeep_index_use"),
        ("Dead rows", "upkeep_dead"),
        ("Share of reads that the cache answered", "upkeep_cache"),
        ("Statements that run for longer than a second", "upkeep_running"),
    ):
        _show(title, await connection.fetch(queries[name].sql))
    if await connection.fetchval("SELECT to_regclass('pg_stat_statements') IS NOT NULL"):
        try:
            _show("Statements by total time", await connection.fetch(_STATEMENTS))
        except asyncpg.PostgresError as error:
            print(f"\nStatements by total time: {error}")
    else:
        print("\nStatements by total time: pg_stat_statements is not installed here")


async def pending(connection: "Connection") -> None:
    """Show how many movements wait to be settled, account by account."""
    queries = load_queries("upkeep")
    _show(
        "Pending by account, the most first", await connection.fetch(queries["upkeep_pending"].sql)
    )


def _show(title: str, rows: Sequence[asyncpg.Record]) -> None:
    print(f"\n{title}")
    if not rows:
        print("  none")
        return
    cells = [list(rows[0].keys()), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    for line in cells:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)[:_CELL_MAX]


ACTIONS = {"optimize": optimize, "monitor": monitor, "pending": pending}


async def _run(action: str) -> None:
    connection: Connection = await asyncpg.connect(load_settings(os.environ).direct_postgres_url)
    try:
        await ACTIONS[action](connection)
    finally:
        await connection.close()


def main(arguments: list[str]) -> int:
    """Do one thing; 0 when it was done, 1 when PostgreSQL would not, 2 when it is none."""
    if len(arguments) != 1 or arguments[0] not in ACTIONS:
        print(f"usage: python -m app.database {'|'.join(ACTIONS)}", file=sys.stderr)
        return 2
    try:
        asyncio.run(_run(arguments[0]))
    except (asyncpg.PostgresError, LedgerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
