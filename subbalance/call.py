"""One request as a value: what to send, how to read its answer. Nothing here does I/O."""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from subbalance import limits

T = TypeVar("T")
Query = Mapping[str, str | int | bool | None]
_KEY = re.compile(rf"[\x21-\x7e]{{1,{limits.KEY_LENGTH_MAX}}}", re.ASCII)
_encode = msgspec.json.Encoder(decimal_format="string").encode
_GOOD = frozenset({200, 201})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the headers by lower-case name, the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request that may be sent several times, always the same bytes under the same key."""

    method: str
    path: str
    read: Callable[[Answer], T]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    key: str | None = None
    good: frozenset[int] = _GOOD
    patience_s: float = 0.0  # an attempt may take this long, even if others may not
    is_whole: Callable[[T], bool] = lambda _: True  # or a part of it may succeed later
    may_repeat: bool = True  # or a second copy would do it once more

    @property
    def is_write(self) -> bool:
        """Whether it may move or change something."""
        return self.method != "GET" and "dry_run" not in self.query


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that comes in pages: `page` asks for the one at a cursor, the first without."""

    page: Callable[[str | None], Call[tuple[list[T], str | None]]]


def get(path: str, read: Callable[[Answer], T], query: Query | None = None, **more: Any) -> Call[T]:
    """Ask for something."""
    return Call("GET", path, read, query=_query(query or {}), **more)


def write(
    path: str,
    read: Callable[[Answer], T],
    body: Mapping[str, Any],
    key: str | None,
    *,
    is_named: bool = True,
    **more: Any,
) -> Call[T]:
    """Ask for something to be done, under the caller's key or one that is drawn here, once.

    Only where `is_named` is false there is none: what is in the body has keys of its own.
    """
    headers = {"Content-Type": "application/json"}
    if is_named:
        key = str(uuid.uuid4()) if key is None else checked_key(key)
        headers["Idempotency-Key"] = key
    content = content_of(body)
    return Call("POST", path, read, headers=headers, content=content, key=key, **more)


def content_of(body: Mapping[str, Any]) -> bytes:
    """Write a body, without what was not given."""
    return _encode(given(body))


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: value for name, value in fields.items() if value is not None}


def checked_key(key: str) -> str:
    """Refuse a key that the service would refuse; `ValueError`."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"a key is 1 to {limits.KEY_LENGTH_MAX} visible ASCII characters: {key!r}")
    return key


def segment(name: object) -> str:
    """Write an id as a part of a path; `ValueError` for what would be another path."""
    text = str(name)
    if text in ("", ".", ".."):
        raise ValueError(f"not an id: {text!r}")
    return quote(text, safe=":")


def instant_text(moment: datetime | str | None) -> str | None:
    """Write an instant in RFC 3339; `ValueError` for one without a time zone."""
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"an instant needs a time zone: {moment!r}")
        return moment.isoformat()
    return moment


def reads(kind: type[T]) -> Callable[[Answer], T]:
    """Read a struct; its `replayed` and `etag`, if it has them, are told by headers."""
    decode = msgspec.json.Decoder(kind).decode
    fields = getattr(kind, "__struct_fields__", ())

    def read(answer: Answer) -> T:
        value: Any = decode(answer.body)
        if "replayed" in fields and answer.headers.get("idempotency-replayed") == "true":
            value = msgspec.structs.replace(value, replayed=True)
        if "etag" in fields:
            value = msgspec.structs.replace(value, etag=answer.headers.get("etag"))
        return value  # type: ignore[no-any-return]

    return read


def _query(query: Query) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in query.items()
        if value is not None
    }
