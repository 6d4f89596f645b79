"""Whose work the machine did during a run, so that a noisy neighbour is seen and not guessed.

Linux only; elsewhere nothing is known.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_BUSY_FIELDS = (0, 1, 2, 5, 6)
_STOLEN_FIELD = 7
# Cores that others may use before the report says so.
OTHERS_MAX_CORES = 0.2


class Use(NamedTuple):
    """Processor seconds since the start of the machine, and of these processes; and the instant."""

    busy_s: float
    stolen_s: float
    ours_s: float
    at_s: float


class Shares(NamedTuple):
    """Cores on average: all that was busy, our processes' part of it, and what was withheld."""

    busy_cores: float
    our_cores: float
    stolen_cores: float

    @property
    def other_cores(self) -> float:
        """What neither this program nor anything it started used."""
        return max(0.0, self.busy_cores - self.our_cores)


def look() -> Use | None:
    """Read the counters; ours are this process and everything below it."""
    with suppress(OSError, ValueError, IndexError):
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        fields = [int(part) for part in (_PROC / "stat").read_text().splitlines()[0].split()[1:]]
        return Use(
            sum(fields[place] for place in _BUSY_FIELDS) / ticks_per_s,
            fields[_STOLEN_FIELD] / ticks_per_s,
            _ticks_below(os.getpid()) / ticks_per_s,
            time.monotonic(),
        )
    return None


def shares_between(before: Use | None, after: Use | None) -> Shares | None:
    """The average use between two readings; None where one is missing."""
    if before is None or after is None or after.at_s <= before.at_s:
        return None
    elapsed_s = after.at_s - before.at_s
    return Shares(
        (after.busy_s - before.busy_s) / elapsed_s,
        (after.ours_s - before.ours_s) / elapsed_s,
        (after.stolen_s - before.stolen_s) / elapsed_s,
    )


def _ticks_below(root: int) -> int:
    """Processor time of a process and its descendants, those that ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            number = int(entry.name)
            parents[number] = int(fields[1])
            ticks[number] = sum(int(part) for part in fields[11:15])
    return sum(own for number, own in ticks.items() if _is_below(number, root, parents))


def _is_below(number: int, root: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        if number == root:
            return True
        if number not in parents:
            return False
        number = parents[number]
    return False
