"""Loads the Lua scripts and checks every call against the contract in the script's header.

A script is a file of `lua/`; the header names its KEYS, ARGV and return words, and `-- include:`
lines are replaced by files of `lua/include/`. Nothing here knows what a script means.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from app.infra.files import shipped
from app.infra.redis_line import RedisLine

SCRIPTS_FOLDER = shipped("lua")
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
_ARGUMENT = re.compile(r"^-- (KEYS|ARGV)\[(\d+)(\+?)\]\s+(\w+)", re.MULTILINE)
_WORD = re.compile(r"^--   (\w+)  +\S", re.MULTILINE)


class ScriptContract:
    """What a script's header promises: fixed and minimal counts of KEYS and ARGV, its words."""

    def __init__(self, name: str, source: str) -> None:
        """Read the contract out of the comment block at the top of the file."""
        self.name = name
        header = source[: source.find("\n\n")] if "\n\n" in source else source
        self.key_names = self._names(header, "KEYS")
        self.argument_names = self._names(header, "ARGV")
        returns = header.partition("-- Returns")[2]
        self.words = frozenset(_WORD.findall(returns))

    @staticmethod
    def _names(header: str, table: str) -> tuple[tuple[str, bool], ...]:
        """List (name, repeats) in order; a gap in the numbering is an error of the file."""
        found = [match for match in _ARGUMENT.findall(header) if match[0] == table]
        for position, match in enumerate(found, start=1):
            if int(match[1]) != position:
                raise ValueError(f"{table}[{match[1]}] stands where {table}[{position}] belongs")
        return tuple((match[3], match[2] == "+") for match in found)

    def check_counts(self, key_count: int, argument_count: int) -> None:
        """Refuse a call whose counts the header does not allow."""
        for names, count in ((self.key_names, key_count), (self.argument_names, argument_count)):
            repeats = bool(names) and names[-1][1]
            fixed = len(names) - repeats
            if count < fixed or (count > fixed and not repeats):
                raise ValueError(f"{self.name}: {count} given where the header says {names}")


class LuaScripts:
    """The scripts of `lua/`, callable by file name on one Redis."""

    def __init__(self, redis: "Redis", folder: Path = SCRIPTS_FOLDER) -> None:
        """Read all files once; needs no I/O with Redis."""
        self.contracts: dict[str, ScriptContract] = {}
        self._line = RedisLine(redis)
        self._sources: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        for path in sorted(folder.glob("*.lua")):
            source = path.read_text(encoding="utf-8")
            self.contracts[path.stem] = ScriptContract(path.stem, source)
            self._sources[path.stem] = with_includes(source, folder)
            digest = hashlib.sha1(self._sources[path.stem].encode(), usedforsecurity=False)
            self._digests[path.stem] = digest.hexdigest()

    async def call(self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run a script; text in, or its UTF-8, and text out. Raises what redis-py raises.

        A script that Redis does not have has not run, so it is loaded and called once more.
        """
        self.contracts[name].check_counts(len(keys), len(arguments))
        words = ("EVALSHA", self._digests[name], str(len(keys)), *keys, *arguments)
        try:
            return await self._line.call(*words)
        except NoScriptError:
            await self._line.call("SCRIPT", "LOAD", self._sources[name])
            return await self._line.call(*words)

    def start_over(self) -> None:
        """Connect anew for the next call: Redis may be another server now."""
        self._line.start_over()


def with_includes(source: str, folder: Path) -> str:
    """Replace `-- include: name` lines by the files of the include folder."""

    def included(match: re.Match[str]) -> str:
        return (folder / "include" / f"{match[1]}.lua").read_text(encoding="utf-8")

    return _INCLUDE.sub(included, source)
