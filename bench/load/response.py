"""Just enough of HTTP/1.1 to read one answer after another from one connection."""

from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_REPLAYED = b"\r\nidempotency-replayed: true"
_CLOSE = b"\r\nconnection: close"
_VERSION = b"HTTP/1.1 "
_HEAD_BYTES_MAX = 16 * 1024
_BODY_BYTES_MAX = 64 * 1024 * 1024


class ProtocolError(Exception):
    """The other side does not speak HTTP as it is expected here."""


class Response(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    replayed: bool
    closes: bool


class ResponseParser:
    """Puts the answers of one connection together from the pieces that arrive."""

    __slots__ = ("_arrived", "_pieces", "_wanted")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._arrived = 0
        self._wanted = 0

    def feed(self, piece: bytes) -> Response | None:
        """Take what arrived; returns the answer once it is whole.

        One request at a time is under way, so nothing may follow an answer: `ProtocolError`.
        """
        if self._pieces:
            self._pieces.append(piece)
            self._arrived += len(piece)
            if self._arrived < self._wanted:
                return None
            piece = b"".join(self._pieces)
        head_end = piece.find(_HEAD_END)
        if head_end < 0:
            if len(piece) > _HEAD_BYTES_MAX:
                raise ProtocolError("the head of an answer does not end")
            self._keep(piece, 0)
            return None
        head = piece[: head_end + 2].lower()
        body_start = head_end + len(_HEAD_END)
        body_end = body_start + _content_length(head)
        if len(piece) < body_end:
            self._keep(piece, body_end)
            return None
        if len(piece) > body_end:
            raise ProtocolError("more than one answer arrived")
        self._pieces = []
        return Response(_status(piece), piece[body_start:], _REPLAYED in head, _CLOSE in head)

    def _keep(self, piece: bytes, wanted: int) -> None:
        """Keep the beginning of an answer that needs so many bytes, 0 while that is unknown."""
        self._pieces, self._arrived, self._wanted = [piece], len(piece), wanted


def _status(received: bytes) -> int:
    if not received.startswith(_VERSION) or not received[9:12].isdigit():
        raise ProtocolError(f"not an answer: {received[:40]!r}")
    return int(received[9:12])


def _content_length(head: bytes) -> int:
    at = head.find(_LENGTH)
    if at < 0:
        raise ProtocolError("an answer without a length")
    text = head[at + len(_LENGTH) : head.find(b"\r\n", at + 2)].strip()
    if not text.isdigit() or int(text) > _BODY_BYTES_MAX:
        raise ProtocolError(f"not a length: {text!r}")
    return int(text)
