"""How a variable of the environment is read: by its name, checked, its fault named."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from app import limits
from app.errors import InvalidSettings, LedgerError
from app.kit.money import currency_exponent

_PREFIX = "SUBBALANCE_"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)?", re.ASCII)
_RATE = re.compile(r"([0-9]{1,9})(/s|/m)?", re.ASCII)
_ORIGIN = re.compile(
    r"https?://[0-9a-z.\-]+(?::[0-9]{1,5})?|https?://\[[0-9a-f:]+\](?::[0-9]{1,5})?"
)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}
_DURATION_SECONDS_MIN, _DURATION_SECONDS_MAX = 0.01, 3_600.0
T = TypeVar("T")


class Reader:
    """Reads variables by name and remembers which of ours it was asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._known: set[str] = set()

    def _read(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        self._known.add(name)
        raw = self._environ.get(name, "").strip()
        if not raw:
            return default
        try:
            return parse(raw)
        except (ValueError, LedgerError) as exc:
            raise InvalidSettings(f"{name}: {exc}") from exc

    def text(self, name: str, default: str) -> str:
        """Read a word or more as it is."""
        return self._read(name, default, str)

    def integer(self, name: str, default: int, lowest: int, highest: int) -> int:
        """Read a whole number between bounds."""

        def parse(raw: str) -> int:
            value = int(raw) if raw.isascii() and raw.isdigit() else -1
            if not lowest <= value <= highest:
                raise ValueError(f"must be a whole number from {lowest} to {highest}")
            return value

        return self._read(name, default, parse)

    def flag(self, name: str, default: bool) -> bool:
        """Read true or false."""
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

        def parse(raw: str) -> bool:
            if raw.lower() not in words:
                raise ValueError("must be true or false")
            return words[raw.lower()]

        return self._read(name, default, parse)

    def choice(self, name: str, default: str, words: tuple[str, ...]) -> str:
        """Read one of some words."""

        def parse(raw: str) -> str:
            if raw.lower() not in words:
                raise ValueError(f"must be one of {', '.join(words)}")
            return raw.lower()

        return self._read(name, default, parse)

    def duration_ms(self, name: str, default: int) -> int:
        """Read a duration such as `5s`, as milliseconds."""

        def parse(raw: str) -> int:
            match = _DURATION.fullmatch(raw)
            seconds = float(match[1]) * _UNIT_SECONDS[match[2]] if match else 0.0
            if not _DURATION_SECONDS_MIN <= seconds <= _DURATION_SECONDS_MAX:
                raise ValueError("must be a duration from 10ms to 60m, such as '5s'")
            return round(seconds * 1_000)

        return self._read(name, default, parse)

    def rate(self, name: str) -> tuple[int, int]:
        """Read requests and the seconds they are counted in."""

        def parse(raw: str) -> tuple[int, int]:
            match = _RATE.fullmatch(raw)
            requests = int(match[1]) if match else -1
            if match is None or requests > limits.RATE_REQUESTS_MAX:
                raise ValueError(
                    f"must be requests in a second or minute, such as 50 or 100/m,"
                    f" at most {limits.RATE_REQUESTS_MAX}"
                )
            return requests, 60 if match[2] == "/m" else 1

        return self._read(name, (0, 1), parse)

    def origins(self, name: str) -> tuple[str, ...]:
        """Read the origins of pages."""

        def parse(raw: str) -> tuple[str, ...]:
            origins = tuple(filter(None, (part.strip() for part in raw.split(","))))
            for origin in origins:
                if origin != "*" and not _ORIGIN.fullmatch(origin):
                    raise ValueError(f"{origin!r} is no origin; one is such as https://a.example")
            return origins

        return self._read(name, (), parse)

    def currency(self, name: str, default: str) -> str:
        """Read the code of a currency."""

        def parse(raw: str) -> str:
            currency_exponent(raw)
            return raw

        return self._read(name, default, parse)

    def refuse_unknown(self) -> None:
        """Refuse variables of ours that nothing asked for."""
        unknown = sorted(
            name for name in self._environ if name.startswith(_PREFIX) and name not in self._known
        )
        if unknown:
            raise InvalidSettings(f"unknown settings: {', '.join(unknown)}")
