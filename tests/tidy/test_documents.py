"""What the documents say about the code is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from app.ledger.schemas import BalanceAnswer, PendingAnswer, TransactionAnswer
from app.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/comparison.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/upgrading.md",
    "docs/regressions.md",
    "docs/reliability.md",
)
DOCUMENTS = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs/decisions").glob("*.md"))]
PATH = re.compile(r"`((?:app|subbalance|lua|sql|tests|bench|docs)/[\w./-]*)(?:::(\w+))?`")
CITED = re.compile(r"\[([TFBMP]\d+(?:, [TFBMP]\d+)*)\]")
ARCHITECTURE_LINES_MAX = 200
DECISION_LINES_MAX = 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_test_a_document_names_exists(document: Path) -> None:
    named = PATH.findall(document.read_text())
    assert named, "it names nothing that could be checked"
    for path, test in named:
        if "NNNN" in path:
            continue
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), test


def test_every_ledger_module_is_on_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    missing = [
        path.name
        for path in (ROOT / "app/ledger").glob("[a-z]*.py")
        if f"/{path.name}`" not in text
    ]
    assert missing == []


def test_architecture_and_decisions_stay_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= ARCHITECTURE_LINES_MAX
    for decision in (ROOT / "docs/decisions").glob("*.md"):
        assert len(decision.read_text().splitlines()) <= DECISION_LINES_MAX, decision.name


def documented_settings() -> set[str]:
    """The names in the table of settings."""
    table = (ROOT / "docs/configuration.md").read_text()
    return {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([A-Z_]+)`", line.split("|")[1])
    }


def test_every_setting_is_documented_and_every_documented_one_is_read() -> None:
    class Recorder(dict[str, str]):
        asked: set[str] = set()  # noqa: RUF012  one recorder, one test

        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            self.asked.add(name)
            return default

    recorder = Recorder()
    load_settings(recorder)
    assert documented_settings() == recorder.asked


def test_the_defaults_in_the_table_of_settings_are_those_of_the_code() -> None:
    compared = 0
    for line in (ROOT / "docs/configuration.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        names, defaults = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3])
        if not defaults:
            assert line.split("|")[2].strip() in {"", "none"}, line
            continue
        assert len(names) == len(defaults), line
        for name, default in zip(names, defaults, strict=True):
            # Where another setting is the default, that one's name stands there.
            if default not in documented_settings():
                assert load_settings({name: default}) == load_settings({}), name
                compared += 1
    assert compared > 30


def test_every_migration_is_in_the_table_of_what_locks() -> None:
    rows = re.findall(r"^\| `(\d{4}_\w+\.sql)` \|", (ROOT / "docs/upgrading.md").read_text(), re.M)
    assert rows == sorted(path.name for path in (ROOT / "sql/migrations").glob("*.sql"))


def test_every_make_target_is_in_its_document_and_no_other() -> None:
    described = re.findall(r"^\| `make ([a-z-]+)`", (ROOT / "docs/targets.md").read_text(), re.M)
    there = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    assert described == there


def test_the_index_of_the_documents_names_each_of_them() -> None:
    text = (ROOT / "docs/README.md").read_text()
    named = set(re.findall(r"`([\w./-]+)`", text))
    assert {name for name in named if "/" in name or name.endswith(".md")} >= {
        path.relative_to(ROOT / "docs").as_posix()
        for pattern in ("*.md", "recipes/*.md")
        for path in (ROOT / "docs").glob(pattern)
        if path.name != "README.md"
    }
    for name in named - {"README.md", "ARCHITECTURE.md"}:
        assert name.startswith("/") or (ROOT / "docs" / name).exists(), name


@pytest.mark.parametrize(
    ("beginning", "answer"),
    [
        ('{"success":true,"message"', TransactionAnswer),
        ('{"account_id":"ACC001","currency":"USD","settled_balance"', BalanceAnswer),
        ('{"account_id":"ACC001","currency":"USD","count"', PendingAnswer),
    ],
)
def test_an_answer_in_the_readme_has_the_fields_of_the_real_one(
    beginning: str, answer: type[msgspec.Struct]
) -> None:
    text = (ROOT / "README.md").read_text()
    places = [match.start() for match in re.finditer(f"^{re.escape(beginning)}", text, re.M)]
    assert places
    for place in places:
        shown = re.split(r"\n\n|\n```", text[place:])[0]
        # What is nested, left out at the end, or there in some answers only is not compared.
        fields = re.findall(r'"(\w+)":', shown.partition("[{")[0])
        is_cut = shown.rstrip().endswith("...")
        described = msgspec.structs.fields(answer)
        always = [each.name for each in described if each.default is not msgspec.UNSET]
        fields = [name for name in fields if name in always]
        assert fields == (always[: len(fields)] if is_cut else always)


def _mismatches(source: str) -> Iterator[str]:
    """The kinds a module can report: what it names at once, and the tables it takes names from."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes = list(ast.walk(function))
        calls = [each for each in nodes if isinstance(each, ast.Call)]
        named = [
            call.args[0] if call.args else next(k.value for k in call.keywords if k.arg == "kind")
            for call in calls
            if isinstance(call.func, ast.Name)
            and call.func.id in {"Mismatch", "_mismatch", "_differing"}
        ]
        tables = [each for each in nodes if isinstance(each, ast.Dict)]
        if any(isinstance(kind, ast.Name) for kind in named):
            named += [key for table in tables for key in table.keys if key is not None]
        for kind in named:
            if isinstance(kind, ast.Constant):
                yield str(kind.value)


def test_every_mismatch_is_explained_and_every_explained_one_can_be_reported() -> None:
    reported = {
        kind
        for name in ("verify.py", "compare.py")
        for kind in _mismatches((ROOT / "app/ledger" / name).read_text())
    }
    table = (ROOT / "docs/operations.md").read_text().partition("| mismatch |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    explained = [kind for row in rows for kind in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(reported) >= len(rows) > 1
    assert sorted(explained) == sorted(reported)


def test_every_direct_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    reasons = (ROOT / "docs/dependencies.md").read_text()
    listed = re.findall(r'^    "([a-zA-Z-]+)', project, re.MULTILINE)
    names = {name for name in listed if re.search(rf'"{name}[\[><=;]', project)}
    assert names
    missing = sorted(name for name in names if f"| {name}" not in reasons)
    assert missing == []


def test_every_page_that_the_comparison_cites_has_its_address_and_none_is_idle() -> None:
    text, _, pages = (ROOT / "docs/comparison.md").read_text().partition("\n## Pages\n")
    cited = {page for group in CITED.findall(text) for page in group.split(", ")}
    assert cited == set(re.findall(r"\b([TFBMP]\d+) (?=<|a survey)", pages))
