"""Notices that a source file was changed, so that a developer need not start anything again."""

from collections.abc import Iterable, Iterator
from pathlib import Path

_KINDS = frozenset((".py", ".lua", ".sql"))


class SourceWatch:
    """Some folders and when each of their sources was last changed."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Begin with what is there now."""
        self._folders = tuple(folders)
        self._seen = dict(self._stamps())

    def changed(self) -> str:
        """The name of a source that was changed, added or removed since the last call, or none."""
        before, self._seen = self._seen, dict(self._stamps())
        return min((path.name for path, _ in before.items() ^ self._seen.items()), default="")

    def _stamps(self) -> Iterator[tuple[Path, int]]:
        for folder in self._folders:
            for path in folder.rglob("*"):
                if path.suffix in _KINDS:
                    try:
                        yield path, path.stat().st_mtime_ns
                    except FileNotFoundError:
                        continue
