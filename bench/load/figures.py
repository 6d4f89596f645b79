"""From what became of each request to the figures of a run, all exact.

A latency counts from the instant a request was meant to be sent to its answer, whatever the answer
is; requests without one have no latency and count as errors.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bench.load.record import (
    ACCEPTED,
    LOST,
    NOT_SENT,
    PARTLY,
    UNANSWERED,
    Record,
    is_accepted_word,
    is_refusal_word,
)
from bench.load.schedule import NANOSECONDS, Schedule

_NO_LATENCY = frozenset({LOST, NOT_SENT, UNANSWERED})
_US_PER_S = 1_000_000
# Lateness of the generator itself that shows in the latencies it reports.
LATENESS_P99_MAX_US = 5_000


class Percentiles(NamedTuple):
    """Latencies in microseconds."""

    answered: int
    p50_us: int
    p95_us: int
    p99_us: int
    max_us: int


class Cost(NamedTuple):
    """What the generator itself used, and how late it came to what was due."""

    cpu_us_per_request: float
    cores: float
    lateness_p50_us: int
    lateness_p99_us: int
    lateness_max_us: int
    processes: int
    reconnects: int

    @property
    def was_the_limit(self) -> bool:
        """Tell whether the generator was so late that its figures are not the service's."""
        return self.lateness_p99_us > LATENESS_P99_MAX_US


class Second(NamedTuple):
    """One second of a run, by when requests were meant to be sent."""

    second: int
    due: int
    accepted: int
    refused: int
    errors: int
    p50_us: int
    p99_us: int
    max_us: int


class Figures(NamedTuple):
    """A run. Transactions are counted, of which a batch request carries many; latencies are of
    requests. `achieved` is of the steady part, `whole` of everything up to the last answer.
    """

    target_per_second: float
    duration_s: float
    ramp_s: float
    requests: int
    transactions: int
    sent: int
    accepted: int
    refused: int
    errors: int
    replays: int
    achieved_per_second: float
    whole_per_second: float
    latency: Percentiles
    steady_latency: Percentiles
    words: dict[str, int]
    cost: Cost

    @property
    def success_share(self) -> float:
        """Accepted ones of all that were due; what was not sent counts against it."""
        return self.accepted / self.transactions if self.transactions else 0.0

    @property
    def error_share(self) -> float:
        """Errors of all that were due, refusals not among them."""
        return self.errors / self.transactions if self.transactions else 0.0

    @property
    def achieved_share(self) -> float:
        """The achieved rate as a share of the target."""
        return self.achieved_per_second / self.target_per_second


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least this share does not exceed (nearest rank); 0 of none."""
    if not ordered:
        return 0
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def percentiles(latencies_us: Iterable[int]) -> Percentiles:
    """The percentiles of values in any order."""
    ordered = sorted(latencies_us)
    return Percentiles(
        len(ordered),
        percentile(ordered, 0.50),
        percentile(ordered, 0.95),
        percentile(ordered, 0.99),
        ordered[-1] if ordered else 0,
    )


class Request(NamedTuple):
    """What became of one request."""

    number: int
    word: str
    latency_us: int

    @property
    def is_answered(self) -> bool:
        """Tell whether it has a latency."""
        return self.word not in _NO_LATENCY


def all_requests(records: Iterable[Record]) -> Iterator[Request]:
    """Every request that came due, process by process."""
    for record in records:
        words = record.words
        latencies, numbers = array("I"), array("H")
        latencies.frombytes(record.latencies_us)
        numbers.frombytes(record.word_numbers)
        for index, (latency_us, word_number) in enumerate(zip(latencies, numbers, strict=True)):
            yield Request(record.first + index * record.stride, words[word_number], latency_us)


def figures_of(records: Sequence[Record], schedule: Schedule, items: int) -> Figures:
    """Put the processes' records together; `items` is how many transactions a request carries."""
    latencies_us, steady_us = array("I"), array("I")
    words, accepted_in_time, last_us = Counter[str](), 0, 1
    begin_us, end_us = round(schedule.ramp_s * _US_PER_S), round(schedule.duration_s * _US_PER_S)
    refused_counts = {
        number: count for record in records for number, count in record.refused_counts.items()
    }
    for request in all_requests(records):
        words[request.word] += 1
        if not request.is_answered:
            continue
        due_us = schedule.intended_ns(request.number) // 1_000
        answered_us = due_us + request.latency_us
        last_us = max(last_us, answered_us)
        latencies_us.append(request.latency_us)
        if due_us >= begin_us:
            steady_us.append(request.latency_us)
        if begin_us <= answered_us < end_us and is_accepted_word(request.word):
            accepted_in_time += items - refused_counts.get(request.number, 0)
    accepted = items * (words[ACCEPTED] + words[PARTLY])
    not_accepted_items = sum(refused_counts.values())
    refused = items * sum(count for word, count in words.items() if is_refusal_word(word))
    due = words.total()
    return Figures(
        target_per_second=schedule.per_second * items,
        duration_s=schedule.duration_s,
        ramp_s=schedule.ramp_s,
        requests=due,
        transactions=due * items,
        sent=(due - words[NOT_SENT]) * items,
        accepted=accepted - not_accepted_items,
        refused=refused + not_accepted_items,
        errors=due * items - accepted - refused,
        replays=sum(record.replay_count for record in records) * items,
        achieved_per_second=accepted_in_time / schedule.steady_s,
        whole_per_second=(accepted - not_accepted_items) * _US_PER_S / last_us,
        latency=percentiles(latencies_us),
        steady_latency=percentiles(steady_us),
        words=dict(words),
        cost=cost_of(records, due - words[NOT_SENT]),
    )


def cost_of(records: Sequence[Record], sent: int) -> Cost:
    """What the sending processes used for so many requests."""
    lateness_us = array("I")
    for record in records:
        lateness_us.frombytes(record.lateness_us)
    ordered = sorted(lateness_us)
    cpu_ns = sum(record.cpu_ns for record in records)
    return Cost(
        cpu_us_per_request=cpu_ns / 1_000 / max(1, sent),
        cores=cpu_ns / max(1, *(record.elapsed_ns for record in records)),
        lateness_p50_us=percentile(ordered, 0.50),
        lateness_p99_us=percentile(ordered, 0.99),
        lateness_max_us=ordered[-1] if ordered else 0,
        processes=len(records),
        reconnects=sum(record.reconnects for record in records),
    )


def seconds_of(records: Sequence[Record], schedule: Schedule) -> list[Second]:
    """The run second by second, to see what a percentile hides."""
    latencies_us: dict[int, array[int]] = {}
    counts: dict[int, Counter[str]] = {}
    for request in all_requests(records):
        second = schedule.intended_ns(request.number) // NANOSECONDS
        counts.setdefault(second, Counter())[request.word] += 1
        part = latencies_us.setdefault(second, array("I"))
        if request.is_answered:
            part.append(request.latency_us)
    return [_second(second, counts[second], latencies_us[second]) for second in sorted(counts)]


def _second(second: int, words: Counter[str], latencies_us: Iterable[int]) -> Second:
    latency = percentiles(latencies_us)
    accepted = words[ACCEPTED] + words[PARTLY]
    refused = sum(count for word, count in words.items() if is_refusal_word(word))
    due = words.total()
    errors = due - accepted - refused
    return Second(
        second, due, accepted, refused, errors, latency.p50_us, latency.p99_us, latency.max_us
    )


def latency_counts(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Every latency in microseconds with how often it occurred, in rising order."""
    counts = Counter(request.latency_us for request in all_requests(records) if request.is_answered)
    return sorted(counts.items())
