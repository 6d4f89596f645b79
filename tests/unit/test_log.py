"""The log: JSON in bounded files, a form for people, and no secret in either."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.infra.log import fields, masked, start_log
from app.security.model import draw_key

LOG = logging.getLogger("test.log")
Start = Callable[..., tuple[Path, io.StringIO]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    ends: list[Callable[[], None]] = []

    def started(**more: Any) -> tuple[Path, io.StringIO]:
        stream = io.StringIO()
        options: dict[str, Any] = {"folder": str(tmp_path / "logs"), "file_bytes": 100_000}
        facts = lambda: {"mode": "redis", "epoch": 7}  # noqa: E731
        ends.append(start_log("app", "info", facts, stream=stream, **(options | more)))
        return tmp_path / "logs", stream

    yield started
    for end in ends:
        end()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_a_line_of_json_with_who_rules(start: Start) -> None:
    folder, _ = start()
    LOG.warning("it %s", "happened\ntwice", extra=fields(request_id="r-1", transaction_id=None))
    (line,) = lines(folder / "app.log")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "test.log",
        "message": "it happened\ntwice",
        "mode": "redis",
        "epoch": 7,
        "request_id": "r-1",
    }


def test_people_get_a_plain_line_where_there_is_no_terminal(start: Start) -> None:
    _, stream = start()
    LOG.error("it happened", extra=fields(request_id="r-1"))
    assert stream.getvalue().endswith(
        "ERROR   test.log it happened  [mode=redis epoch=7 request_id=r-1]\n"
    )
    assert "\033" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql://user:hunter2@host:5432/books?sslmode=on",
        "redis://:hunter2@host",
        "redis+sentinel://:hunter2@one:1,two:2/master",
        "postgresql://user:p@ss/hunter2@host/books",
        "dsn host=a password=hunter2 user=b",
        "{'password': 'hunter2'}",
        '{"secret": "hunter2", "a": 1}',
        "Authorization: Bearer hunter2",
        "postgresql://host/books?user=a&password=hunter2&x=1",
    ],
)
def test_no_secret_gets_into_the_log(text: str, start: Start) -> None:
    folder, stream = start()
    LOG.info("%s", text, extra=fields(detail=text))
    try:
        raise ValueError(text)
    except ValueError:
        LOG.exception("it failed")
    for told in ((folder / "app.log").read_text(), stream.getvalue()):
        assert told.count("***") >= 3
        assert "hunter2" not in told


def test_of_an_api_key_there_is_its_id() -> None:
    token = draw_key().token
    assert masked(f"x-api-key: {token} came") == f"x-api-key: {token[:16]}*** came"


@pytest.mark.parametrize(
    "text", ["http://host:80/a?b=c", "epoch 3: decided by redis", "a@b.example", "10:30 @ noon"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_files_are_bounded_in_size_and_number(start: Start) -> None:
    folder, _ = start(file_bytes=2_000, files=3)
    for number in range(200):
        LOG.info("line %s", number)
    kept = sorted(path.name for path in folder.glob("*.log*"))
    assert kept == ["app.log", "app.log.1", "app.log.2"]
    assert all((folder / name).stat().st_size <= 2_000 for name in kept)
    assert lines(folder / "app.log")[-1]["message"] == "line 199"


def test_two_processes_never_write_to_one_file(start: Start) -> None:
    folder, _ = start()
    start()
    LOG.info("both hear this")
    assert len(lines(folder / "app.log")) == len(lines(folder / "app-2.log")) == 1


def test_a_folder_that_cannot_be_written_to_costs_a_warning(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, stream = start(folder=str(tmp_path / "file"))
    assert "no log file is written" in stream.getvalue()
