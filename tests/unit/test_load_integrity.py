"""The integrity check notices each figure that is not what clients were told."""

from array import array
from typing import Any

from bench.load.integrity import (
    Rows,
    check_balances,
    check_entry_count,
    check_keys,
    check_known,
    check_parts,
    check_repeats,
    check_row_counts,
    check_verified,
)
from bench.load.ledger import Ledger, LedgerRefused
from bench.load.measure import spread
from bench.load.mix import Mix, Requests
from bench.load.outcome import Change, Promised, changes_of, promised_by, resolve
from bench.load.record import LOST, Recorder
from bench.load.response import Response
from tests.drills.client import Answer
from tests.drills.observed import Balance

OPENINGS = {"A": Balance(10_000, 0, 0, 10_000), "B": Balance(5_000, 300, 200, 5_900)}
CHANGES = {"A": Change(700, 250, 3), "B": Change(0, 100, 1)}
PENDING = {"A": Balance(10_000, 250, 700, 10_450), "B": Balance(4_900, 100, 0, 5_800)}
SETTLED = {"A": Balance(10_450, 0, 0, 10_450), "B": Balance(4_800, 0, 0, 5_800)}
NOTHING = Promised(b"", (), (), {}, (), 0, 0)


def test_opening_and_accepted_changes_are_the_balance() -> None:
    assert check_balances(OPENINGS, CHANGES, PENDING).passed
    assert check_balances(OPENINGS, CHANGES, SETTLED).passed


def test_a_cent_too_much_or_too_little_is_noticed() -> None:
    for wrong in (1, -1):
        found = SETTLED | {"B": SETTLED["B"]._replace(settled_minor=4_800 + wrong)}
        check = check_balances(OPENINGS, CHANGES, found)
        assert not check.passed
        assert "B: expected 48.00" in check.detail
    assert "no account" in check_balances(OPENINGS, CHANGES, {"A": SETTLED["A"]}).detail


def test_the_parts_of_a_balance_must_agree_with_its_limit() -> None:
    assert check_parts(OPENINGS, PENDING, settled=False).passed
    assert check_parts(OPENINGS, SETTLED, settled=True).passed
    assert not check_parts(OPENINGS, PENDING, settled=True).passed
    wrong = PENDING | {"A": PENDING["A"]._replace(available_minor=10_451)}
    assert not check_parts(OPENINGS, wrong, settled=False).passed


def test_a_missing_or_an_extra_row_is_noticed() -> None:
    before = {"A": Rows(5, 10_000)}
    after = {"A": Rows(8, 10_450), "B": Rows(1, -100)}
    assert check_row_counts(before, after, CHANGES).passed
    for wrong in (Rows(7, 10_450), Rows(9, 10_450), Rows(8, 10_449)):
        assert not check_row_counts(before, after | {"A": wrong}, CHANGES).passed


def test_the_services_own_count_may_only_be_higher_where_others_use_it_too() -> None:
    def proof(entries: int, *, complete: bool = True) -> dict[str, object]:
        return {"complete": complete, "compared": {"entries": entries}}

    assert check_entry_count(proof(10), proof(14), CHANGES, alone=True).passed
    assert not check_entry_count(proof(10), proof(15), CHANGES, alone=True).passed
    assert check_entry_count(proof(10), proof(15), CHANGES, alone=False).passed
    assert not check_entry_count(proof(10), proof(13), CHANGES, alone=False).passed
    unknown = check_entry_count(proof(10), proof(0, complete=False), CHANGES, alone=True)
    assert unknown.passed
    assert "not counted" in unknown.detail


def test_a_key_that_is_not_found_as_asked_is_noticed() -> None:
    assert check_keys(NOTHING, {1: True, 2: True}, {3: False}).passed
    assert not check_keys(NOTHING, {1: True, 2: False}, {}).passed
    assert not check_keys(NOTHING, {1: True}, {3: True}).passed


def test_contradictions_unknown_outcomes_and_a_bad_proof_fail() -> None:
    assert check_repeats(NOTHING).passed
    assert not check_repeats(NOTHING._replace(contradictions=("x",), contradiction_count=7)).passed
    assert check_known(NOTHING, 5).passed
    assert not check_known(NOTHING._replace(unknown=(3,)), 5).passed
    assert check_verified({"status": "verified", "complete": True, "compared": {}}).passed
    assert not check_verified({"status": "mismatch", "mismatches": [{"kind": "overdrawn"}]}).passed
    assert not check_verified({"status": "answered 503"}).passed


def test_an_outcome_is_what_any_sending_of_a_key_was_told() -> None:
    mix = Mix("run", ("A",), duplicates=0.5, repeat_after=1)
    requests = Requests(mix)
    repeats = [n for n in range(200) if requests.origin(n) == n - 1][:4]
    accepted_late, accepted_early, refused, lost = repeats
    told = {
        accepted_late - 1: LOST,
        accepted_late: 201,
        accepted_early - 1: 201,
        accepted_early: LOST,
        refused - 1: 422,
        refused: 422,
        lost - 1: LOST,
        lost: 422,
    }
    recorder = Recorder(requests, 0, 1, 200)
    for number in range(200):
        status = told.get(number, 422)
        if isinstance(status, str):
            recorder.failed(number, status)
        else:
            recorder.answered(number, 0, 1, Response(status, b'{"code":"x"}', False, False))
    promised = promised_by([recorder.finish(200, array("I"), 0, 0, 0)], requests, 200)
    assert promised.accepted_numbers == [accepted_late - 1, accepted_early - 1]
    assert promised.unknown == (lost - 1,)
    assert refused - 1 in promised.refused
    assert lost - 1 not in promised.refused
    (change,) = changes_of(promised, requests).values()
    moved = [
        change_minor
        for number in promised.accepted_numbers
        for _, change_minor in requests.movements(number)
    ]
    assert (change.transactions, change.change_minor) == (2, sum(moved))


class FakeLedger(Ledger):
    """Decides what it is asked again, from a table by key."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__("http://127.0.0.1:9")
        self.answers = answers
        self.asked: list[str] = []

    async def decide(
        self, path: str, body: dict[str, Any], key: str, timeout_s: float = 0
    ) -> Answer:
        self.asked.append(key)
        if key not in self.answers:
            raise LedgerRefused(key)
        return self.answers[key]


async def test_what_is_unknown_is_asked_again_under_its_key() -> None:
    requests = Requests(Mix("run", ("A",)))
    told = NOTHING._replace(accepted=bytes([1, 0, 0, 0]), unknown=(1, 2, 3))
    keys = [requests.key(number).decode() for number in range(4)]
    ledger = FakeLedger({keys[1]: Answer(201, {}, True), keys[2]: Answer(422, {}, False)})
    promised = await resolve(told, requests, ledger)
    assert sorted(ledger.asked) == keys[1:]
    assert promised.accepted_numbers == [0, 1]
    assert promised.unknown == (3,)


async def test_a_batch_that_is_asked_again_tells_what_it_refused() -> None:
    requests = Requests(Mix("run", ("A",), batch=2))
    results = {"results": [{"success": True}, {"success": False}]}
    ledger = FakeLedger({requests.key(0).decode(): Answer(200, results, False)})
    told = NOTHING._replace(accepted=bytes([0]), unknown=(0,))
    promised = await resolve(told, requests, ledger)
    (change,) = changes_of(promised, requests).values()
    assert change.transactions == 1
    assert change.change_minor == next(iter(requests.movements(0)))[1]


def test_a_sample_is_spread_over_everything() -> None:
    assert spread(range(10), 20) == list(range(10))
    assert spread(range(1_001), 5) == [0, 250, 500, 750, 1_000]
