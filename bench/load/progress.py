"""One line that shows how far a run is: refreshed on a terminal, else one line a second."""

import sys
from typing import TextIO

from bench.load.generator import Counters

_REFRESH_S, _LINE_S = 0.2, 1.0


class Progress:
    """Shows a run while it lasts."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to standard output unless told otherwise."""
        self._stream = stream or sys.stdout
        self._refreshes = self._stream.isatty()
        self._title, self._duration_s = "", 0.0
        self._shown_at_s = 0.0
        self._width = 0

    def begin(self, title: str, duration_s: float) -> None:
        """A run of so many seconds begins."""
        self._title, self._duration_s, self._shown_at_s = title, duration_s, -1.0

    def show(self, at_s: float, counters: Counters) -> None:
        """Show where the run is, unless that was shown just now."""
        if at_s - self._shown_at_s < (_REFRESH_S if self._refreshes else _LINE_S) or at_s <= 0:
            return
        self._shown_at_s = at_s
        text = progress_line(self._title, at_s, self._duration_s, counters)
        if self._refreshes:
            self._stream.write(f"\r{text.ljust(self._width)}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        clear = f"\r{' ' * self._width}\r" if self._refreshes and self._width else ""
        self._width = 0
        self._stream.write(f"{clear}{text}\n")
        self._stream.flush()


def progress_line(title: str, at_s: float, duration_s: float, counters: Counters) -> str:
    """How far a run is."""
    parts = [
        f"{title:>16}",
        f"{at_s:5.1f} of {duration_s:g} s",
        f"sent {counters.sent:,}",
        f"accepted {counters.accepted:,}",
        f"refused {counters.refused:,}",
        f"errors {counters.errors:,}",
        f"in flight {counters.in_flight:,}",
        f"waiting {counters.backlog:,}",
    ]
    return " | ".join(parts)
