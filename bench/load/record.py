"""What became of every request of one process, kept whole: nothing is sampled or rounded away.

A request has its latency in microseconds from the instant it was meant to be sent, and one word.
"""

from array import array
from typing import NamedTuple

import msgspec

from app.errors import LedgerError, Rejected, Unavailable
from bench.load.mix import Requests
from bench.load.response import Response

ACCEPTED, PARTLY, LOST, NOT_SENT, UNANSWERED = (
    "accepted",
    "partly accepted",
    "lost",
    "not sent",
    "unanswered",
)
_FIRST_WORDS = (UNANSWERED, ACCEPTED, PARTLY, LOST, NOT_SENT)
_UINT32_MAX = 2**32 - 1
_CREATED, _OK = 201, 200
_TOO_MANY, _CLIENT_ERROR, _SERVER_ERROR = 429, 400, 500
_SHOWN_MAX = 5
_REPEATED, _NEW = b'"replayed":true', b'"replayed":false'


class _Code(msgspec.Struct):
    """A problem, as far as it matters here."""

    code: str = ""


class _Item(msgspec.Struct):
    """One transaction of a batch's answer."""

    success: bool
    problem: _Code | None = None


class _Results(msgspec.Struct):
    """A batch's answer."""

    results: list[_Item]


_decode_code = msgspec.json.Decoder(_Code)
_decode_results = msgspec.json.Decoder(_Results)


def codes_of(family: type[LedgerError]) -> frozenset[str]:
    """The codes of a family of errors."""
    found = {family.code}
    for kind in family.__subclasses__():
        found |= codes_of(kind)
    return frozenset(found)


_UNCHANGED = codes_of(Rejected) | codes_of(Unavailable)


class Record(NamedTuple):
    """One process' part of a run; requests are by their place in its share."""

    first: int
    stride: int
    due: int
    latencies_us: bytes
    word_numbers: bytes
    words: tuple[str, ...]
    lateness_us: bytes
    refused_items: dict[int, frozenset[int]]
    refused_counts: dict[int, int]
    unknown_items: frozenset[int]
    contradictions: tuple[str, ...]
    contradiction_count: int
    replay_count: int
    cpu_ns: int
    elapsed_ns: int
    reconnects: int


class Recorder:
    """Takes answers as they come; the counters are for a progress line."""

    def __init__(self, requests: Requests, first: int, stride: int, count: int) -> None:
        """Make room for so many requests, every `stride`-th of all."""
        self.latencies_us = array("I", bytes(4 * count))
        self.word_numbers = array("H", bytes(2 * count))
        self.accepted = self.refused = self.errors = self.replays = 0
        self.words = list(_FIRST_WORDS)
        self.refused_items: dict[int, frozenset[int]] = {}
        self.refused_counts: dict[int, int] = {}
        self.unknown_items: set[int] = set()
        self.contradictions: list[str] = []
        self.contradiction_count = 0
        self._requests = requests
        self._first, self._stride = first, stride
        self._total = first + count * stride
        self._keeps = requests.mix.duplicates > 0
        self._batch = requests.mix.batch
        self._answers: dict[int, tuple[int, bool]] = {}
        self._number_of = {word: number for number, word in enumerate(_FIRST_WORDS)}

    def answered(self, index: int, due_ns: int, now_ns: int, response: Response) -> None:
        """Keep an answer."""
        self.latencies_us[index] = min((now_ns - due_ns) // 1_000, _UINT32_MAX)
        status = response.status
        if status == _CREATED:
            self.word_numbers[index] = 1
            self.accepted += 1
            if self._keeps and self._batch:
                self.refused_items[self._origin(index)] = frozenset()
        elif status == _OK and self._batch:
            self._note_items(index, response.body)
        else:
            self._note_refusal(index, status, response.body)
        if response.replayed or (self._batch and _REPEATED in response.body):
            self.replays += 1
        # A batch that was accepted in part may be accepted as a whole the next time.
        if self._keeps and status == _CREATED:
            self._compare(index, response)

    def failed(self, index: int, word: str) -> None:
        """Keep that a request was not answered, or never sent."""
        self._set_word(index, word)
        self.errors += 1

    def _number(self, index: int) -> int:
        return self._first + index * self._stride

    def _origin(self, index: int) -> int:
        return self._requests.origin(self._number(index))

    def _set_word(self, index: int, word: str) -> None:
        number = self._number_of.setdefault(word, len(self.words))
        if number == len(self.words):
            self.words.append(word)
        self.word_numbers[index] = number

    def _note_refusal(self, index: int, status: int, body: bytes) -> None:
        try:
            code = _decode_code.decode(body).code
        except msgspec.MsgspecError:
            code = ""
        self._set_word(index, f"{status} {code}".rstrip())
        if is_refusal(status):
            self.refused += 1
        else:
            self.errors += 1

    def _note_items(self, index: int, body: bytes) -> None:
        """Keep which transactions of a batch were not accepted, and which may have been."""
        number, origin = self._number(index), self._origin(index)
        try:
            items = _decode_results.decode(body).results
        except msgspec.MsgspecError:
            self._contradict(f"request {number} was answered 200 without results")
            self.failed(index, LOST)
            return
        refused = frozenset(place for place, item in enumerate(items) if not item.success)
        self._set_word(index, PARTLY if refused else ACCEPTED)
        self.accepted += 1
        if refused:
            self.refused_counts[number] = len(refused)
            # What one sending accepted stays accepted: only what all of them refused is refused.
            self.refused_items[origin] = refused & self.refused_items.get(origin, refused)
            codes = {item.problem.code for item in items if item.problem is not None}
            if codes - _UNCHANGED:
                self.unknown_items.add(origin)

    def _compare(self, index: int, response: Response) -> None:
        """A key's accepted answers are the same bytes, and all but one say that they repeat."""
        number, origin = self._number(index), self._origin(index)
        if origin == number and not self._requests.is_repeated(number, self._total):
            return
        seen = self._answers.get(origin)
        # A batch says of each of its transactions whether it repeats, instead of a header.
        body = response.body.replace(_REPEATED, _NEW) if self._batch else response.body
        is_new = _NEW in response.body if self._batch else not response.replayed
        said = (hash(body), is_new)
        if seen is None:
            self._answers[origin] = said
            return
        key = self._requests.key(origin).decode()
        if seen[0] != said[0]:
            self._contradict(f"{key} was answered with different bytes")
        if seen[1] and said[1]:
            self._contradict(f"{key} was accepted twice as new")
        self._answers[origin] = (seen[0], seen[1] or said[1])

    def _contradict(self, text: str) -> None:
        self.contradiction_count += 1
        if len(self.contradictions) < _SHOWN_MAX:
            self.contradictions.append(text)

    def finish(
        self, due: int, lateness_us: "array[int]", cpu_ns: int, elapsed_ns: int, reconnects: int
    ) -> Record:
        """Everything, to be sent to the process that asked; the first `due` requests came due."""
        return Record(
            self._first,
            self._stride,
            due,
            self.latencies_us[:due].tobytes(),
            self.word_numbers[:due].tobytes(),
            tuple(self.words),
            lateness_us.tobytes(),
            self.refused_items,
            self.refused_counts,
            frozenset(self.unknown_items),
            tuple(self.contradictions),
            self.contradiction_count,
            self.replays,
            cpu_ns,
            elapsed_ns,
            reconnects,
        )


def is_refusal(status: int) -> bool:
    """Tell whether an answer refuses for good; 429 and 5xx are errors."""
    return _CLIENT_ERROR <= status < _SERVER_ERROR and status != _TOO_MANY


def is_refusal_word(word: str) -> bool:
    """The same of a word."""
    return word[:3].isdigit() and is_refusal(int(word[:3]))


def is_accepted_word(word: str) -> bool:
    """Tell whether a request's word says 2xx."""
    return word in (ACCEPTED, PARTLY)


def is_unknown_word(word: str) -> bool:
    """Tell whether a request may have been applied although nobody said so."""
    if word in (LOST, UNANSWERED):
        return True
    status, _, code = word.partition(" ")
    return status.isdigit() and int(status) >= _SERVER_ERROR and code not in _UNCHANGED
