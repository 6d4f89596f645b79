"""Reads along with a conversation between the service and a server, to know which call is which.

It decides nothing and changes no byte: it names the requests that became complete and says which
request a reply completes. A conversation has one request under way at a time, or answers in order.
"""

import re
from collections import deque
from typing import Protocol

import hiredis

OTHER = "other"
_SCRIPT_NAME = re.compile(rb"-- (\w+):")
_FUNCTION = re.compile(rb"\b([a-z_]+)_v[0-9]+\s*\(")
_READS = (b"pending_sums", b"postgres_identity", b"assigned_transaction_id", b"major_units")
_CANCEL_REQUEST = 80_877_102
_LENGTH_BYTES = 4


class Conversation(Protocol):
    """Follows the two directions of one connection."""

    def requested(self, data: bytes) -> list[str]:
        """Labels of the requests that these bytes complete."""
        ...

    def replied(self, data: bytes) -> list[str]:
        """Labels of the requests whose replies these bytes complete."""
        ...


class Unread:
    """Names nothing; for conversations nobody needs to read, such as a replica's."""

    def requested(self, _data: bytes) -> list[str]:
        """No labels."""
        return []

    def replied(self, _data: bytes) -> list[str]:
        """No labels."""
        return []


class RedisConversation:
    """Labels a script call by the script's name, everything else by the command."""

    names_by_digest: dict[bytes, str]

    def __init__(self, names_by_digest: dict[bytes, str]) -> None:
        """Share what other conversations learnt about which digest is which script."""
        self.names_by_digest = names_by_digest
        self._requests = hiredis.Reader()
        self._replies = hiredis.Reader()
        self._under_way: deque[str] = deque()
        self._loading: deque[str] = deque()

    def requested(self, data: bytes) -> list[str]:
        """Labels of the requests that these bytes complete."""
        self._requests.feed(data)
        labels = []
        while (words := self._requests.gets()) is not False:
            label = self._label(words) if isinstance(words, list) and words else OTHER
            labels.append(label)
            self._under_way.append(label)
        return labels

    def replied(self, data: bytes) -> list[str]:
        """Labels of the requests whose replies these bytes complete."""
        self._replies.feed(data)
        labels = []
        while (reply := self._replies.gets()) is not False:
            label = self._under_way.popleft() if self._under_way else OTHER
            if label == "script_load" and isinstance(reply, bytes):
                self.names_by_digest[reply] = self._loading.popleft()
            labels.append(label)
        return labels

    def _label(self, words: list[bytes]) -> str:
        command = words[0].upper()
        if command == b"EVALSHA":
            return self.names_by_digest.get(words[1], "script")
        if command == b"EVAL":
            return _script_name(words[1])
        if command == b"SCRIPT" and words[1].upper() == b"LOAD":
            self._loading.append(_script_name(words[2]))
            return "script_load"
        return command.decode(errors="replace").lower()


def _script_name(source: bytes) -> str:
    match = _SCRIPT_NAME.match(source)
    return match[1].decode() if match else "script"


class PostgresConversation:
    """Labels an execution by the ledger function its statement calls, such as `journal_batch`."""

    def __init__(self) -> None:
        """Begin before the startup message."""
        self._requests = bytearray()
        self._replies = bytearray()
        self._started = False
        self._labels_by_statement: dict[bytes, str] = {}
        self._label = OTHER
        self._under_way: deque[str] = deque(["startup"])

    def requested(self, data: bytes) -> list[str]:
        """Labels of the requests that these bytes complete."""
        self._requests += data
        labels = []
        if not self._started and not self._skip_startup():
            return labels
        for kind, body in _messages(self._requests):
            if kind == b"P":
                name, _, rest = body.partition(b"\0")
                self._labels_by_statement[name] = _function_name(rest.partition(b"\0")[0])
            elif kind == b"B":
                _, _, rest = body.partition(b"\0")
                statement = rest.partition(b"\0")[0]
                self._label = self._labels_by_statement.get(statement, OTHER)
            elif kind == b"Q":
                self._under_way.append(_function_name(body))
                labels.append(self._under_way[-1])
            elif kind == b"S":
                self._under_way.append(self._label)
                labels.append(self._label)
                self._label = OTHER
        return labels

    def replied(self, data: bytes) -> list[str]:
        """Labels of the requests whose replies these bytes complete."""
        self._replies += data
        return [
            self._under_way.popleft() if self._under_way else OTHER
            for kind, _ in _messages(self._replies)
            if kind == b"Z"
        ]

    def _skip_startup(self) -> bool:
        """Take the first message off, which has no kind; False until it is complete."""
        size = int.from_bytes(self._requests[:_LENGTH_BYTES], "big")
        if len(self._requests) < max(size, 2 * _LENGTH_BYTES):
            return False
        code = int.from_bytes(self._requests[_LENGTH_BYTES : 2 * _LENGTH_BYTES], "big")
        self._started = code != _CANCEL_REQUEST
        del self._requests[:size]
        return True


def _messages(buffer: bytearray) -> list[tuple[bytes, bytes]]:
    """Take the complete messages off a buffer, as kind and body."""
    messages, position = [], 0
    while len(buffer) - position > _LENGTH_BYTES:
        size = int.from_bytes(buffer[position + 1 : position + 1 + _LENGTH_BYTES], "big") + 1
        if len(buffer) - position < size:
            break
        kind = bytes(buffer[position : position + 1])
        messages.append((kind, bytes(buffer[position + 1 + _LENGTH_BYTES : position + size])))
        position += size
    del buffer[:position]
    return messages


def _function_name(statement: bytes) -> str:
    for match in _FUNCTION.finditer(statement):
        if match[1] not in _READS:
            return match[1].decode()
    return OTHER
