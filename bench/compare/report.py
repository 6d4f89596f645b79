"""Writes what a run found: raw samples as JSON, and a page of Markdown with everything computed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
CHECKED = """
After every sample the books were compared exactly. This service: each account's balance before plus
the sample's rows, in PostgreSQL after settlement; the same in Redis, with nothing in flight, for
every account that was used; the same from the API for some of them; every accepted request has its
rows. Rivals: the sum of rows is the change of balance, account by account. A difference ends the
run with exit code 1.
""".strip()


def page(
    title: str,
    settings: Mapping[str, str],
    parts: Iterable[tuple[str, Sequence[str]]],
    checks: Sequence[str],
) -> str:
    """Put a page together; each part is a heading and its lines."""
    lines = [f"# {title}", "", *(f"* {name}: {value}" for name, value in settings.items()), ""]
    for heading, content in parts:
        lines += [f"## {heading}", "", *content, ""]
    lines += ["## What was checked", "", CHECKED, "", *(f"* {each}" for each in checks)]
    return "\n".join(lines).rstrip() + "\n"


def write_page(folder: Path, name: str, text: str) -> Path:
    """Write a page beside its raw samples."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(text)
    return path
