"""The open loop under a clock of its own: who is due is sent, whatever became of the others."""

from itertools import pairwise

import pytest

from bench.load.figures import percentile
from bench.load.open_loop import NEVER_NS, OpenLoop
from bench.load.schedule import NANOSECONDS, Schedule, share_count

MS = 1_000_000


class FakeLane:
    """Keeps what it was given to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []

    def send(self, index: int, due_ns: int) -> None:
        self.sent.append((index, due_ns))


COUNTS = [
    (Schedule(10, 10), 100),
    (Schedule(300, 10), 3_000),
    (Schedule(3_000, 300, 30), 855_000),
    (Schedule(1_000, 4, 4), 2_000),
    (Schedule(0.5, 3), 2),
    (Schedule(20_000 / 100, 3), 600),
]


@pytest.mark.parametrize(("schedule", "count"), COUNTS)
def test_a_ramp_sends_half_of_what_its_time_would_hold(schedule: Schedule, count: int) -> None:
    assert schedule.request_count == count


def test_instants_are_even_after_the_ramp_and_end_before_the_end() -> None:
    schedule = Schedule(100, 5, 1)
    instants = [schedule.intended_ns(number) for number in range(schedule.request_count)]
    assert instants[0] == 0
    assert instants == sorted(instants)
    steady = instants[schedule.ramp_count :]
    assert steady[0] == NANOSECONDS
    assert {later - earlier for earlier, later in pairwise(steady)} == {10 * MS}
    assert instants[-1] < 5 * NANOSECONDS <= schedule.intended_ns(schedule.request_count)
    # Half way up the ramp a quarter of its requests are due.
    assert sum(instant < NANOSECONDS // 2 for instant in instants) == pytest.approx(12.5, abs=1)


def test_processes_share_all_requests_between_them() -> None:
    schedule = Schedule(70, 1, 0.5)
    shares = [list(schedule.share(first, 3, 1_000)) for first in range(3)]
    assert [len(share) for share in shares] == [
        share_count(schedule.request_count, first, 3) for first in range(3)
    ]
    everything = [1_000 + schedule.intended_ns(n) for n in range(schedule.request_count)]
    assert sorted(instant for share in shares for instant in share) == everything


def test_requests_are_sent_on_time_though_none_is_answered() -> None:
    loop = OpenLoop(iter([0, 10, 20, 30]), backlog_max=9)
    lanes = [FakeLane() for _ in range(4)]
    loop.free.extend(lanes)
    loop.advance(0)
    assert sum(len(lane.sent) for lane in lanes) == 1
    loop.advance(25)
    assert sorted(sent for lane in lanes for sent in lane.sent) == [(0, 0), (1, 10), (2, 20)]
    assert loop.due_ns == 30
    assert not loop.is_over


def test_what_finds_no_lane_waits_and_keeps_the_instant_it_was_due() -> None:
    loop, lane = OpenLoop(iter([0, 1_000, 2_000]), backlog_max=9), FakeLane()
    loop.release(lane)
    loop.advance(2_000)
    assert lane.sent == [(0, 0)]
    loop.release(lane)
    loop.release(lane)
    assert lane.sent == [(0, 0), (1, 1_000), (2, 2_000)]
    loop.release(lane)
    assert loop.free == [lane]
    assert (loop.sent_count, loop.is_over, loop.due_ns) == (3, True, NEVER_NS)


def test_what_exceeds_the_backlog_is_never_sent() -> None:
    loop, lane = OpenLoop(iter(range(5)), backlog_max=2), FakeLane()
    loop.release(lane)
    loop.advance(10)
    assert loop.not_sent == [3, 4]
    loop.release(lane)
    loop.give_up()
    assert loop.not_sent == [3, 4, 2]
    assert lane.sent == [(0, 0), (1, 1)]


def test_lateness_is_the_loops_own_and_not_the_wait_for_a_lane() -> None:
    loop = OpenLoop(iter([0, 5 * MS]), backlog_max=9)
    loop.advance(2 * MS)
    loop.advance(5 * MS)
    assert list(loop.lateness_us) == [2_000, 0]


def test_after_a_stop_nothing_comes_due() -> None:
    loop = OpenLoop(iter([0, 10, 20]), backlog_max=9)
    loop.advance(10)
    assert loop.stop() == 2
    loop.advance(1_000)
    assert len(loop.backlog) == 2


def test_a_stall_shows_in_every_request_that_was_due_meanwhile() -> None:
    """One lane, answers after 1 ms, but none during the first second of every five."""
    schedule = Schedule(100, 10)
    loop, lane = OpenLoop(schedule.share(0, 1, 0), backlog_max=10_000), FakeLane()
    loop.free.append(lane)
    latencies_ms, answered = [], 0
    for now_ms in range(11_000):
        loop.advance(now_ms * MS)
        is_stalled = now_ms % 5_000 < 1_000
        if len(lane.sent) > answered and not is_stalled:
            index, due_ns = lane.sent[answered]
            latencies_ms.append(now_ms + 1 - due_ns // MS)
            answered += 1
            assert index == answered - 1
            loop.release(lane)
    assert answered == schedule.request_count
    # A tenth of all were due in the first half of a stall; a closed loop would have sent two.
    assert 500 <= percentile(sorted(latencies_ms), 0.90) <= 620
