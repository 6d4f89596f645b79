"""The pages of `docs/recipes` do what they say: their Python runs in order, as it stands there,
against the real service, and prints what the page shows.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.client.service import Service

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/recipes").glob("*.md"))
URL = "http://localhost:8082"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of a page, and the line it begins at."""

    kind: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(match[1], match[2], text[: match.start(2)].count("\n") + 1)
        for match in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows(page: Path, service: Service) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    printed = ""
    for block in blocks_of(page):
        if block.kind == "text":
            assert printed == block.text, f"{page.name}:{block.line}"
            printed = ""
            continue
        assert block.kind == "python", f"{page.name}:{block.line} is of no kind that is checked"
        source = "\n" * (block.line - 1) + block.text.replace(URL, service.url)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(source, str(page), "exec"), names)
        printed += output.getvalue()
    assert printed == "", "the last output is not on the page"
    names["ledger"].close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_copied_with_its_address(page: Path) -> None:
    blocks = blocks_of(page)
    assert f'Client("{URL}")' in blocks[0].text
    assert {block.kind for block in blocks} == {"python", "text"}
    assert all(len(line) <= 100 for block in blocks for line in block.text.splitlines())


def test_every_page_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert PAGES
    assert [page.name for page in PAGES if f"docs/recipes/{page.name}" not in text] == []
