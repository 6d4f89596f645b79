"""Every named query prepares against the migrated database with the parameters its header says."""

from typing import Any

import pytest

from app.database import INDEXES, expected_indexes
from app.infra.queries import Query, load_queries

FILES = ("ledger", "verify", "reads", "events", "security", "upkeep", "web")
QUERIES = {name: query for file in FILES for name, query in load_queries(file).items()}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_query_takes_the_parameters_of_its_header(query: Query, database: Any) -> None:
    statement = await database.prepare(query.sql)
    wanted = [
        await database.fetchval("SELECT $1::regtype::text", name) for _, name in query.parameters
    ]
    taken = [
        await database.fetchval("SELECT format_type($1, NULL)", parameter.oid)
        for parameter in statement.get_parameters()
    ]
    assert taken == wanted


async def test_public_tables_have_the_named_columns(database: Any) -> None:
    async def columns(table: str) -> dict[str, str]:
        rows = await database.fetch(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1",
            table,
        )
        return {row["column_name"]: row["data_type"] for row in rows}

    balances = await columns("account_balances")
    for name in ("settled_balance", "pending_debit", "pending_credit", "available_balance"):
        assert balances[name] == "numeric"
    assert {"id", "created_at", "updated_at", "version", "last_settlement_at"} <= balances.keys()
    assert balances["version"] == "bigint"
    sub = await columns("sub_balances")
    assert sub["amount"] == "numeric"
    assert {"id", "account_id", "type", "status", "created_at", "updated_at"} <= sub.keys()


async def test_the_indexes_that_are_looked_after_are_those_of_the_migrations(database: Any) -> None:
    rows = await database.fetch(
        "SELECT pg_get_indexdef(i.indexrelid) AS index"
        "  FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid"
        " WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')"
        "   AND NOT t.relispartition"
        "   AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)"
    )
    there = "".join(f"{row['index']};\n" for row in rows)
    wanted = set(expected_indexes(INDEXES.read_text()))
    assert wanted == set(expected_indexes(there)), f"what {INDEXES} should hold:\n{there}"
    assert len(rows) == len(list(expected_indexes(there))) > 10
