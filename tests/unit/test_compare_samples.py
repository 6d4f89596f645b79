"""Samples of a comparison: rates, percentiles, medians, bodies and the order of a round."""

import json
from pathlib import Path

import msgspec
import pytest

from app.settings import Ledger
from bench.compare.bodies import KEY_PLACE, bodies, write_bodies
from bench.compare.plan import Selection, cells, in_turns
from bench.compare.row_locks import read_figures
from bench.compare.samples import (
    EMPTY,
    NAIVE,
    POSTGRES_MODE,
    ROW_LOCKS,
    SERVICE,
    Cell,
    Figures,
    Sample,
    medians,
    percentile,
    write_raw,
)
from bench.compare.unbatched import interval
from bench.compare.wrk import possible_rows
from bench.compare.wrk import read_figures as read_wrk

FIGURES = Figures(100, 0, 0, 2_000_000, 10, 10, 20, 30)
PGBENCH = """
number of transactions actually processed: 4
number of failed transactions: 0 (0.000%)
latency average = 2.000 ms
tps = 8.000000 (without initial connection time)
"""


def sample(accepted: int, number: int, cell: Cell) -> Sample:
    return Sample(cell, number, FIGURES._replace(accepted=accepted, p50_us=1_000 * number))


def test_a_batch_counts_its_items() -> None:
    assert Sample(Cell(SERVICE, 1, 4, items=1_000), 1, FIGURES).per_second == 50_000


def test_a_median_is_of_the_rounds_of_one_cell() -> None:
    one, other = Cell(SERVICE, 1, 64), Cell(SERVICE, 1, 256)
    found = medians([sample(100, 1, one), sample(900, 1, other), sample(300, 2, one)])
    assert found[one].per_second == 100
    assert (found[one].lowest, found[one].highest, found[one].p50_ms) == (50, 150, 1.5)
    assert found[other].per_second == 450


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 5), (95, 10), (99, 10), (10, 1), (11, 2), (100, 10)]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: int) -> None:
    assert percentile(range(1, 11), percent) == expected


def test_every_sample_is_kept(tmp_path: Path) -> None:
    cell = Cell(NAIVE, 5, 64)
    write_raw(tmp_path / "raw.json", [sample(1, 1, cell), sample(2, 2, cell)], settings={"a": "b"})
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw["settings"] == {"a": "b"}
    assert [(each["accounts"], each["round"], each["accepted"]) for each in raw["samples"]] == [
        (5, 1, 1),
        (5, 2, 2),
    ]


def test_rows_may_exceed_what_was_read_by_one_answer_for_each_connection() -> None:
    rows = possible_rows(Cell(SERVICE, 1, 4, items=10), FIGURES)
    assert [count in rows for count in (999, 1_000, 1_040, 1_041)] == [False, True, True, False]


def test_the_generators_line_is_found_in_its_report() -> None:
    output = "Running 1s test\nRESULT 9 1 2 1000 7 5 6 8\nrest"
    assert read_wrk(output) == Figures(9, 1, 2, 1_000, 7, 5, 6, 8)


def test_the_log_of_row_locks_gives_percentiles() -> None:
    log = [f"0 {number} {latency} 0 1 1" for number, latency in enumerate((4_000, 1_000, 3_000, 2))]
    figures = read_figures(PGBENCH, log)
    assert (figures.accepted, figures.duration_us, figures.p50_us, figures.p99_us) == (
        4,
        500_000,
        1_000,
        4_000,
    )


def test_a_log_that_lacks_a_transaction_is_refused() -> None:
    with pytest.raises(ValueError, match="counts 4 transactions and logs 3"):
        read_figures(PGBENCH, ["0 1 5 0 1 1"] * 3)


@pytest.mark.parametrize(("accounts", "items"), [(1, 1), (5, 1), (40, 1), (5, 10), (40, 10)])
def test_bodies_touch_every_account_equally_often(accounts: int, items: int) -> None:
    made = bodies(Cell(SERVICE, accounts, 64, items=items))
    decoded = [msgspec.json.decode(body) for body in made]
    sent = [each for body in decoded for each in body.get("transactions", [body])]
    counts = {each["account_id"]: 0 for each in sent}
    for each in sent:
        counts[each["account_id"]] += 1
    assert len(counts) == accounts
    assert max(counts.values()) == min(counts.values())
    assert len({len(body) for body in made}) == 1


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_every_item_has_a_place_for_its_key(encoding: str) -> None:
    (body,) = bodies(Cell(SERVICE, 1, 4, items=3, keys="item", encoding=encoding))
    decode = msgspec.json.decode if encoding == "json" else msgspec.msgpack.decode
    keys = [each["idempotency_key"] for each in decode(body)["transactions"]]
    assert len(set(keys)) == 3
    assert body.count(KEY_PLACE.encode()) == 3


def test_bodies_are_written_with_their_lengths(tmp_path: Path) -> None:
    cell = Cell(SERVICE, 2, 64)
    length, rest = write_bodies(tmp_path, cell).read_bytes().split(b"\n", 1)
    assert rest[: int(length)] in bodies(cell)


def test_rivals_stand_beside_one_another_and_rounds_alternate() -> None:
    planned = cells(Selection(accounts=(1,), connections=(64,), sections=("single",)))
    assert [cell.competitor for cell in planned] == [EMPTY, NAIVE, POSTGRES_MODE, SERVICE]
    assert in_turns(planned, 2) == planned[::-1]
    assert in_turns(planned, 3) == planned


def test_everything_that_is_asked_for_is_planned_once() -> None:
    planned = cells(Selection())
    assert len(planned) == len(set(planned))
    locks = {(c.accounts, c.connections) for c in planned if c.competitor == ROW_LOCKS}
    assert locks == {(a, c) for a in (1, 5, 10_000) for c in (1, 8, 32, 64)}
    assert {c.items for c in planned if c.competitor == SERVICE} == {1, 100, 1_000, 8_000}


def test_batches_in_flight_fit_the_services_queue() -> None:
    for cell in cells(Selection()):
        assert cell.items * cell.connections <= Ledger().queue_items


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (16, (3, 12)), (20, (5, 14))]
)
def test_the_medians_bounds_are_order_statistics(count: int, expected: tuple[int, int]) -> None:
    assert interval(range(count)) == expected
