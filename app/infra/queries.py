"""Loads named SQL from `sql/queries/`: `-- name:` blocks with their parameters in the header."""

import re
from pathlib import Path
from typing import NamedTuple

from app.infra.files import shipped

QUERIES_FOLDER = shipped("sql") / "queries"
_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PARAMETERS = re.compile(r"^-- Params: (.+)$", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+) (\w+) ([\w\[\]]+)")


class Query(NamedTuple):
    """One named statement and the (name, SQL type) of each parameter, in order."""

    name: str
    sql: str
    parameters: tuple[tuple[str, str], ...]


def load_queries(room: str, folder: Path = QUERIES_FOLDER) -> dict[str, Query]:
    """Read one room's file of queries; a name given twice is an error of the file."""
    text = (folder / f"{room}.sql").read_text(encoding="utf-8")
    parts = _BLOCK.split(text)[1:]
    queries: dict[str, Query] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"{room}.sql names {name} twice")
        queries[name] = Query(name, _statement(body), _parameters(body))
    return queries


def _statement(body: str) -> str:
    lines = (line for line in body.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().rstrip(";")


def _parameters(body: str) -> tuple[tuple[str, str], ...]:
    match = _PARAMETERS.search(body)
    if match is None:
        return ()
    return tuple((name, sql_type) for _, name, sql_type in _PARAMETER.findall(match[1]))
