"""Rules about the code itself that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for name in ("app", "subbalance") for path in (ROOT / name).rglob("*.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
QUERY_CALLS = {"fetch", "fetchrow", "fetchval", "execute"}
MAY_QUERY = {
    "app/database.py",
    "app/infra/migrations.py",
    "app/infra/postgres.py",
    "app/ledger/compare.py",
    "app/ledger/journal.py",
    "app/ledger/mode.py",
    "app/ledger/settler.py",
    "app/ledger/store.py",
    "app/security/store.py",
}
# The third of them none of those that move money.
MAY_CALL_SCRIPTS = {"app/ledger/admission.py", "app/ledger/mode.py", "app/events/redis_stream.py"}
VAGUE = {"manager", "helper", "helpers", "utils", "util", "misc", "common"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=MODULES, ids=name_of)
def module(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_modules_and_functions_stay_short(module: Path) -> None:
    source = module.read_text()
    assert len(source.splitlines()) <= MODULE_LINES_MAX
    for function in _functions(source):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= FUNCTION_LINES_MAX, f"{function.name} has {length} lines"


def test_modules_say_what_they_are_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_names_are_not_vague(module: Path) -> None:
    assert not VAGUE & set(module.stem.split("_"))


def test_queries_and_scripts_stay_where_they_belong(module: Path) -> None:
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & QUERY_CALLS or name_of(module) in MAY_QUERY
    source = module.read_text()
    assert "scripts.call(" not in source or name_of(module) in MAY_CALL_SCRIPTS


def test_only_settings_is_given_the_environment() -> None:
    starters = {
        "app/bootstrap.py",
        "app/database.py",
        "app/instances.py",
        "app/main.py",
        "app/operate.py",
        "app/run.py",
        "app/workers/__main__.py",
    }
    for module in MODULES:
        if "os.environ" in module.read_text():
            assert name_of(module) in starters


def test_nothing_is_left_open() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    for folder in ("app", "subbalance", "lua", "sql", "tests", "bench"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in {".py", ".lua", ".sql"}:
                text = path.read_text()
                assert not [word for word in words if word in text], path


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
