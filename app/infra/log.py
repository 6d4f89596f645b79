"""The log: a line of JSON in a bounded file, and one for people on standard output.

Passwords do not get into either: what looks like one is masked in messages and tracebacks alike.
"""

import fcntl
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

Facts = Callable[[], Mapping[str, Any]]
NO_FOLDER = "none"
_MASK = "***"
# Up to the last @ of the word: too much rather than too little.
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"'<>]*:)[^\s\"'<>]*@")
_NAMED_SECRET = re.compile(
    r"((?:password|passwd|secret|authorization)[\"']?\s*[=:]\s*[\"']?)(?:bearer\s+|basic\s+)?[^\s,;&\"']+",
    re.IGNORECASE,
)
_API_KEY = re.compile(r"(sb_[0-9a-f]{12}_)[0-9a-f]+")
_PROCESSES_MAX = 64
_COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}
_PLAIN = "\033[0m"


def masked(text: str) -> str:
    """Hide the passwords of URLs, the secrets of API keys, and what is said to be a secret."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{_MASK}@", text)
    if "sb_" in text:
        text = _API_KEY.sub(rf"\1{_MASK}", text)
    return _NAMED_SECRET.sub(rf"\1{_MASK}", text)


def fields(**known: Any) -> dict[str, Any]:
    """Give what is known of a record, such as `request_id`, as the `extra` of a log call."""
    return {"fields": {name: value for name, value in known.items() if value is not None}}


class _Formatter(logging.Formatter):
    """What both forms need of a record."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self._facts = facts

    def _parts(self, record: logging.LogRecord) -> tuple[str, dict[str, Any], str | None]:
        """The message, the fields, and the traceback; no secret in any of them."""
        known = {**self._facts(), **getattr(record, "fields", {})}
        known = {
            name: masked(value) if isinstance(value, str) else value
            for name, value in known.items()
        }
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        return masked(record.getMessage()), known, traceback and masked(traceback)


class JsonFormatter(_Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        message, known, traceback = self._parts(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": message, **known}
        if traceback:
            line["exception"] = traceback
        return json.dumps(line, default=str, ensure_ascii=False)


class TerminalFormatter(_Formatter):
    """A record for people, coloured on a terminal."""

    def __init__(self, facts: Facts, *, coloured: bool) -> None:
        super().__init__(facts)
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        message, known, traceback = self._parts(record)
        at = self.formatTime(record)
        level = f"{record.levelname:7}"
        if self._coloured and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_PLAIN}"
        told = " ".join([f"{name}={value}" for name, value in known.items()])
        line = f"{at} {level} {record.name} {message}" + (f"  [{told}]" if told else "")
        return f"{line}\n{traceback}" if traceback else line


class _BoundedFile(RotatingFileHandler):
    """A rotated file that no other process writes to while this one lives."""

    def __init__(self, folder: Path, name: str, file_bytes: int, files: int) -> None:
        """Take `name`.log, or the first free `name`-2.log, ...; raises `OSError`."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, _PROCESSES_MAX + 1):
            stem = name if number == 1 else f"{name}-{number}"
            self._lock_file = (folder / f".{stem}.lock").open("w")
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock_file.close()
                continue
            super().__init__(
                folder / f"{stem}.log", maxBytes=file_bytes, backupCount=files - 1, encoding="utf-8"
            )
            return
        raise OSError(f"{_PROCESSES_MAX} processes write to {folder} already")

    def close(self) -> None:
        """Give the file up."""
        super().close()
        self._lock_file.close()


def start_log(
    name: str,
    level: str,
    facts: Facts,
    *,
    folder: str = NO_FOLDER,
    file_bytes: int = 0,
    files: int = 2,
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """Send this process's log to `folder`/`name`.log and to `stream`, standard output unless said;
    returns what ends that.

    A folder that cannot be written to costs a warning, not the service.
    """
    stream = stream or sys.stdout
    shown = logging.StreamHandler(stream)
    shown.setFormatter(TerminalFormatter(facts, coloured=stream.isatty()))
    handlers: list[logging.Handler] = [shown]
    failure: OSError | None = None
    if folder != NO_FOLDER:
        try:
            kept = _BoundedFile(Path(folder), name, file_bytes, files)
        except OSError as exc:
            failure = exc
        else:
            kept.setFormatter(JsonFormatter(facts))
            handlers.append(kept)
    root = logging.getLogger()
    level_before = root.level
    root.setLevel(level.upper())
    for handler in handlers:
        root.addHandler(handler)
    if failure is not None:
        logging.getLogger(__name__).warning("no log file is written: %s", failure)

    def end() -> None:
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()

    return end
