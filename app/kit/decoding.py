"""JSON bodies into structs, with each way to be wrong as an error of its own and a JSON pointer."""

import re
from typing import Any, TypeVar

import msgspec

from app import errors, limits

T = TypeVar("T")
_PLACE = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_KEY_SHAPED = re.compile(r"[\x21-\x7e]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_JSON_TYPES = ("application/json", 'application/json; charset="utf-8"')


def check_json_type(content_type: str) -> None:
    """Refuse a Content-Type other than JSON in UTF-8."""
    if content_type in _JSON_TYPES:
        return
    media_type, _, parameters = content_type.lower().partition(";")
    charset = parameters.strip().replace('"', "")
    if media_type.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise errors.UnsupportedMediaType


def decode_msgpack(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    """Decode a MessagePack body; raises what `decode_json` raises."""
    return _decoded(decoder, body, "MessagePack")


def decode_json(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """Decode a body; raises `MalformedJson`, `MissingField`, `UnknownField`, `WrongType`, ..."""
    return _decoded(decoder, body, "JSON")


def _decoded(
    decoder: "msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T]", body: bytes, form: str
) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _named(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.MalformedJson(f"The body is not valid {form}: {exc}") from exc


def _named(message: str) -> errors.Rejected:
    """Turn the decoder's sentence into our error for the same field."""
    match = _PLACE.fullmatch(message)
    what, path = (match[1], match[2] or "") if match else (message, "")
    pointer = _pointer(path)
    field = _FIELD.fullmatch(what)
    if field is not None:
        kind = errors.MissingField if field[1] == "missing required" else errors.UnknownField
        name = field[2][: limits.IDEMPOTENCY_KEY_LENGTH_MAX]
        return kind(f"{what}.", pointer=f"{pointer}/{_escaped(name)}")
    if pointer.endswith(("amount", "opening_balance", "credit_limit")):
        if "got `float`" in what or what == "Number out of range":
            return errors.AmountFloat(pointer=pointer)
        if what == "Integer value out of range":
            return errors.AmountTooLarge(pointer=pointer)
    if "got `" in what:
        return errors.WrongType(f"{what}.", pointer=pointer)
    return errors.InvalidValue(f"{what}.", pointer=pointer)


def _pointer(path: str) -> str:
    """Turn `.items[3].amount` into `/items/3/amount`; a key of a map is not told."""
    path = path.replace("[...]", "")
    return re.sub(r"\.|\[(\d+)\]", lambda match: "/" + (match[1] or ""), path)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def check_text(text: str | None, length_max: int, pointer: str) -> None:
    """Refuse text that is too long or holds control characters, which no store keeps well."""
    if text is None:
        return
    if len(text) > length_max:
        raise errors.InvalidValue(f"At most {length_max} characters are allowed.", pointer=pointer)
    if _CONTROL.search(text):
        raise errors.InvalidValue("Control characters are not allowed.", pointer=pointer)


def check_metadata(metadata: dict[str, str] | None) -> None:
    """Refuse metadata past its bounds."""
    if metadata is None:
        return
    if len(metadata) > limits.METADATA_ENTRIES_MAX:
        raise errors.InvalidValue(
            f"At most {limits.METADATA_ENTRIES_MAX} entries are allowed.", pointer="/metadata"
        )
    for key, value in metadata.items():
        pointer = f"/metadata/{_escaped(key[: limits.METADATA_KEY_LENGTH_MAX])}"
        check_text(key, limits.METADATA_KEY_LENGTH_MAX, pointer)
        check_text(value, limits.METADATA_VALUE_LENGTH_MAX, pointer)


def idempotency_key(header: str | None) -> str | None:
    """Read an Idempotency-Key header: bare, or quoted as a structured field string."""
    if header is None:
        return None
    key = header.strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if len(key) > limits.IDEMPOTENCY_KEY_LENGTH_MAX or not _KEY_SHAPED.fullmatch(key):
        raise errors.InvalidIdempotencyKey(pointer="/headers/Idempotency-Key")
    return key


def echo(body: bytes, *names: str) -> dict[str, Any]:
    """Read fields of a refused body as they were sent, for the refusal; null where unreadable."""
    try:
        sent = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        return dict.fromkeys(names)
    return {name: _short(sent.get(name)) for name in names}


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[: limits.IDEMPOTENCY_KEY_LENGTH_MAX]
    is_plain = isinstance(value, int | float | None) and not isinstance(value, bool)
    return value if is_plain and abs(value or 0) <= limits.INT64_MAX else None
