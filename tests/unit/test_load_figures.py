"""From records to figures: exact percentiles, who counts as what, what answers must agree on."""

import math
from array import array
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.figures import (
    LATENESS_P99_MAX_US,
    figures_of,
    latency_counts,
    percentile,
    percentiles,
    seconds_of,
)
from bench.load.mix import Mix, Requests
from bench.load.record import LOST, NOT_SENT, Record, Recorder, is_unknown_word
from bench.load.response import Response
from bench.load.schedule import Schedule

MS_NS, MS_US = 1_000_000, 1_000
SINGLE = Mix("run", ("ACC001",))


def recorder_of(count: int, mix: Mix = SINGLE) -> Recorder:
    return Recorder(Requests(mix), 0, 1, count)


def finished(recorder: Recorder, count: int, lateness_us: list[int] | None = None) -> Record:
    return recorder.finish(count, array("I", lateness_us or [10] * count), 5_000, 10_000_000, 0)


def answer(status: int, body: bytes = b"{}", *, replayed: bool = False) -> Response:
    return Response(status, body, replayed, False)


def problem(code: str) -> bytes:
    return f'{{"type":"debit","status":"REJECTED","code":"{code}"}}'.encode()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[int], percent: int
) -> None:
    share = Fraction(percent, 100)
    enough = [v for v in values if Fraction(sum(o <= v for o in values), len(values)) >= share]
    assert percentile(sorted(values), percent / 100) == min(enough)


def test_percentiles_are_of_all_values_and_none_of_nothing() -> None:
    assert percentiles(range(1_000, 0, -1)) == (1_000, 500, 950, 990, 1_000)
    assert percentiles([7]) == (1, 7, 7, 7, 7)
    assert percentiles([]) == (0, 0, 0, 0, 0)


def test_figures_count_each_request_once_and_latency_from_when_it_was_due() -> None:
    schedule = Schedule(10, 1)
    recorder = recorder_of(10)
    for index in range(6):
        due_ns = schedule.intended_ns(index)
        recorder.answered(index, due_ns, due_ns + (index + 1) * MS_NS, answer(201))
    due_ns = schedule.intended_ns(6)
    recorder.answered(6, due_ns, due_ns + 9 * MS_NS, answer(422, problem("insufficient_available")))
    recorder.answered(7, due_ns, due_ns + 9 * MS_NS, answer(503, problem("overloaded")))
    recorder.failed(8, LOST)
    recorder.failed(9, NOT_SENT)
    figures = figures_of([finished(recorder, 10)], schedule, 1)
    assert (figures.transactions, figures.sent, figures.accepted) == (10, 9, 6)
    assert (figures.refused, figures.errors) == (1, 3)
    assert figures.words == {
        "accepted": 6, "422 insufficient_available": 1, "503 overloaded": 1, LOST: 1, NOT_SENT: 1,
    }  # fmt: skip
    assert figures.latency == (8, 4 * MS_US, 9 * MS_US, 9 * MS_US, 9 * MS_US)
    assert figures.success_share == pytest.approx(0.6)
    assert figures.error_share == pytest.approx(0.3)
    assert latency_counts([finished(recorder, 10)])[-1] == (9 * MS_US, 2)


def test_the_achieved_rate_is_of_answers_within_the_steady_part() -> None:
    """A ramp of 2 s to 10/s, 2 s at that rate; each answer comes half a second late."""
    schedule = Schedule(10, 4, 2)
    count = schedule.request_count
    recorder = recorder_of(count)
    for index in range(count):
        due_ns = schedule.intended_ns(index)
        recorder.answered(index, due_ns, due_ns + 500 * MS_NS, answer(201))
    figures = figures_of([finished(recorder, count)], schedule, 1)
    within = [n for n in range(count) if 2_000 <= schedule.intended_ns(n) // MS_NS + 500 < 4_000]
    assert count == 30
    assert figures.achieved_per_second == len(within) / 2
    assert figures.whole_per_second == pytest.approx(30 / 4.4)
    assert figures.steady_latency.answered == 20
    assert figures.latency.answered == 30
    assert [second.due for second in seconds_of([finished(recorder, count)], schedule)] == [
        3, 7, 10, 10,
    ]  # fmt: skip


def test_two_processes_make_one_run() -> None:
    schedule = Schedule(10, 1)
    records = []
    for first in (0, 1):
        recorder = Recorder(Requests(SINGLE), first, 2, 5)
        for index in range(5):
            recorder.answered(index, 0, (first + 1) * MS_NS, answer(201))
        records.append(finished(recorder, 5))
    figures = figures_of(records, schedule, 1)
    assert (figures.accepted, figures.latency.p50_us, figures.latency.p95_us) == (
        10, MS_US, 2 * MS_US,
    )  # fmt: skip
    assert figures.cost.processes == 2


def test_a_generator_that_was_late_says_so() -> None:
    schedule, recorder = Schedule(100, 1), recorder_of(100)
    for lateness_us, was_the_limit in (
        (LATENESS_P99_MAX_US, False),
        (LATENESS_P99_MAX_US + 1, True),
    ):
        record = finished(recorder, 100, [0] * 97 + [lateness_us] * 3)
        assert figures_of([record], schedule, 1).cost.was_the_limit is was_the_limit


def test_only_what_may_have_been_applied_is_unknown() -> None:
    unknown = [LOST, "500 internal_error", "503 journal_outcome_unknown", "502", "504"]
    known = ["accepted", NOT_SENT, "503 overloaded", "503 stopping", "422 insufficient_available"]
    assert [is_unknown_word(word) for word in unknown] == [True] * len(unknown)
    assert [is_unknown_word(word) for word in known] == [False] * len(known)


class TestRepeated:
    """Answers to one key."""

    mix = Mix("run", ("ACC001",), duplicates=0.5, repeat_after=1)

    def pair(self) -> tuple[int, int]:
        requests = Requests(self.mix)
        number = next(n for n in range(100) if requests.origin(n) == n - 1)
        return number - 1, number

    def recorded(self, first: Response, second: Response) -> Recorder:
        recorder = recorder_of(100, self.mix)
        for index, response in zip(self.pair(), (first, second), strict=True):
            recorder.answered(index, 0, 1, response)
        return recorder

    def test_the_same_bytes_are_right_in_either_order(self) -> None:
        new, again = answer(201, b"{1}"), answer(201, b"{1}", replayed=True)
        assert self.recorded(new, again).contradictions == []
        assert self.recorded(again, new).contradictions == []
        assert self.recorded(new, again).replays == 1

    def test_other_bytes_are_a_contradiction(self) -> None:
        recorder = self.recorded(answer(201, b"{1}"), answer(201, b"{2}", replayed=True))
        assert "different bytes" in recorder.contradictions[0]

    def test_two_new_acceptances_are_a_contradiction(self) -> None:
        recorder = self.recorded(answer(201, b"{1}"), answer(201, b"{1}"))
        assert "twice as new" in recorder.contradictions[0]

    def test_a_refusal_may_be_followed_by_an_acceptance(self) -> None:
        recorder = self.recorded(answer(422, problem("insufficient_available")), answer(201))
        assert recorder.contradiction_count == 0


def test_the_items_of_a_batch_are_counted_each() -> None:
    mix = Mix("run", ("ACC001",), batch=3)
    recorder = recorder_of(2, mix)
    refused = (
        b'{"results":[{"success":true},{"success":false,"problem":{"code":"%b"}},{"success":true}]}'
    )
    recorder.answered(0, 0, 1, answer(200, refused % b"insufficient_available"))
    recorder.answered(1, 0, 1, answer(201))
    record = finished(recorder, 2)
    assert record.refused_items == {0: frozenset({1})}
    assert not record.unknown_items
    figures = figures_of([record], Schedule(2, 1), mix.items)
    assert (figures.transactions, figures.accepted, figures.refused, figures.errors) == (6, 5, 1, 0)
    recorder.answered(1, 0, 1, answer(200, refused % b"journal_outcome_unknown"))
    assert finished(recorder, 2).unknown_items == {1}


def test_an_answer_of_a_batch_without_results_counts_as_lost() -> None:
    recorder = recorder_of(1, Mix("run", ("ACC001",), batch=3))
    recorder.answered(0, 0, 1, answer(200, b"{}"))
    assert recorder.contradiction_count == 1
    assert (recorder.accepted, recorder.errors) == (0, 1)
    assert math.isclose(figures_of([finished(recorder, 1)], Schedule(1, 1), 3).success_share, 0)
