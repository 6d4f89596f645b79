"""The drills at a faster scale, judged by facts and never by timings, and their own judgement."""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from tests.drills.client import LOST, Answer
from tests.drills.failure_report import REPORT_NAME, failure_lines, write_failure_report
from tests.drills.gate import Gate
from tests.drills.history import History, Outcome
from tests.drills.integrity import Check, all_passed, check_integrity
from tests.drills.observed import Balance, Observed, Row
from tests.drills.recovery_report import recovery_lines, write_recovery
from tests.drills.recovery_times import measure_first_failures
from tests.drills.redis_failure import (
    CutOff,
    FailureResult,
    Killed,
    NamedTransaction,
    Outage,
    hold_redis_failure,
)
from tests.drills.report import SuccessRate, verdict
from tests.drills.restore import ALIVE, EMPTY, OLD, check_new_epoch, hold_restore
from tests.drills.restore_report import restore_lines
from tests.drills.rolling import hold_rolling_restart, write_rolling_report
from tests.drills.service import Options

FAST = Options(
    instances=1,
    durable=False,
    connections=8,
    per_second=150,
    environment={"SUBBALANCE_PROBE_INTERVAL": "100ms"},
)
SCALE = 0.1
LOAD_S = 0.5
URL = "http://api"
PROOF = {"status": "verified", "complete": True, "compared": {"redis_accounts": 1}}


@pytest.mark.parametrize("outage", [CutOff, Killed])
async def test_a_redis_failure_loses_and_doubles_nothing(
    outage: Callable[[], Outage], tmp_path: Path
) -> None:
    result = await hold_redis_failure(outage(), FAST, SCALE)
    report = write_failure_report(tmp_path, result)
    assert report.name.startswith(f"{REPORT_NAME}_")
    text = report.read_text()
    assert [check for check in result.integrity if not check.passed] == []
    assert [check for check in result.failure_checks if not check.passed] == [], text
    first, second = result.transactions
    assert first.row is not None
    assert second.row is not None
    assert (first.row.mode, second.row.mode) == ("redis", "postgres")
    assert second.row.epoch > first.row.epoch
    assert result.passed
    assert result.rate.grade == "Excellent"
    assert "* Redis failure: Passed" in text


async def test_a_restored_backup_is_exact_and_goes_on() -> None:
    variants = (("base backup", ALIVE), ("base backup", OLD), ("dump", EMPTY))
    result = await hold_restore(FAST, variants, LOAD_S)
    text = "\n".join(restore_lines(result))
    failed = [
        check for restored in result.restored for check in restored.checks if not check.passed
    ]
    assert failed == [], text
    assert [restored.replayed > 0 for restored in result.restored] == [True] * 3
    assert [restored.missing > 0 for restored in result.restored] == [True] * 3
    assert result.passed


async def test_processes_are_replaced_under_load_and_no_request_fails(tmp_path: Path) -> None:
    options = Options(instances=2, connections=10, durable=False)
    result = await hold_rolling_restart(options, 500, 1)
    text = write_rolling_report(tmp_path, result).read_text()
    assert [check for check in result.checks if not check.passed] == [], text
    assert result.passed
    # Every connection of the processes that ended was told so.
    assert result.told.told_to_close > 0
    assert "* Rolling restart: Passed" in text


async def test_recovery_times_are_measured_and_written(tmp_path: Path) -> None:
    series = await measure_first_failures(FAST, 1)
    assert series.passed, "\n".join(recovery_lines([series], "test"))
    assert write_recovery(tmp_path, [series], "test").exists()
    assert (tmp_path / "recovery.json").exists()


async def test_a_cut_gate_breaks_what_is_open_and_refuses_what_is_new() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    gate = Gate(server.sockets[0].getsockname()[1])
    await gate.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    writer.write(b"through\n")
    assert await reader.readline() == b"through\n"
    await gate.cut()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", gate.port)
    assert await _ends(reader)
    await gate.open()
    _, again = await asyncio.open_connection("127.0.0.1", gate.port)
    again.close()
    writer.close()
    await gate.close()
    server.close()


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


# The judgement itself: a story in which everything is right, then one lie at a time.

ROWS = [
    Row("t0", "opening:A", "A", 1_000, "SETTLED", 1, 0, "redis", 1),
    Row("t1", "k1", "A", -400, "SETTLED", 2, 0, "redis", 1),
    Row("t2", "k2", "A", 250, "SETTLED", 3, 0, "postgres", 2),
    Row("t3", "k3", "A", -850, "PENDING", 4, 0, "redis", 3),
    Row("t4", "k5", "A", 5, "SETTLED", 3, 1, "postgres", 2),
]
AT_REST = Balance(855, 850, 0, 5)


def true_story() -> tuple[History, Observed]:
    """Three accepted movements, one refused, one whose outcome its client never learnt."""
    history = History({"A": 1_000})
    for key, change_minor, transaction_id, mode in (
        ("k1", -400, "t1", "redis"),
        ("k2", 250, "t2", "postgres"),
        ("k3", -850, "t3", "redis"),
    ):
        body = {"transaction_id": transaction_id, "mode": mode, "status": "PENDING"}
        history.intend(key, "A", change_minor).note(0, 1, Answer(201, body, False))
    refused = history.intend("k4", "A", -1)
    refused.note(0, 1, Answer(503, {"code": "redis_unavailable"}, False))
    refused.note(1, 2, Answer(422, {"code": "insufficient_available"}, False))
    history.intend("k5", "A", 5).note(0, 1, Answer(LOST, {}, False))
    observed = Observed("redis", 3, list(ROWS), {"A": AT_REST}, {"A": 0}, {"A": 4})
    observed.totals_minor = {"USD": (0, 0)}
    observed.api = {URL: {"A": AT_REST}}
    observed.redis = {"A": AT_REST}
    observed.verify = dict(PROOF)
    return history, observed


def test_a_true_story_passes() -> None:
    history, observed = true_story()
    assert [check for check in check_integrity(history, observed) if not check.passed] == []
    outcomes = [intention.outcome for intention in history.intentions]
    assert outcomes == [Outcome.ACCEPTED] * 3 + [Outcome.REFUSED, Outcome.UNKNOWN]


def _lose_a_row(history: History, observed: Observed) -> None:
    del observed.rows[1]


def _double_a_row(history: History, observed: Observed) -> None:
    observed.rows.append(ROWS[1]._replace(transaction_id="t9", batch_seq=9))


def _forget_an_acknowledgement(history: History, observed: Observed) -> None:
    del history.intentions[1]


def _invent_an_acknowledgement(history: History, observed: Observed) -> None:
    body = {"transaction_id": "t8"}
    history.intend("k8", "A", -1).note(0, 1, Answer(201, body, False))


def _tell_another_id(history: History, observed: Observed) -> None:
    body = {"transaction_id": "t9"}
    history.intentions[0].note(1, 2, Answer(201, body, True))


def _journal_a_refused_one(history: History, observed: Observed) -> None:
    observed.rows.append(Row("t4", "k4", "A", -1, "SETTLED", 5, 0, "redis", 3))


def _move_another_amount(history: History, observed: Observed) -> None:
    observed.rows[2] = ROWS[2]._replace(change_minor=251)


def _name_another_mode(history: History, observed: Observed) -> None:
    history.intentions[1].sendings[0].mode = "redis"


def _lose_a_cent_in_postgres(history: History, observed: Observed) -> None:
    observed.balances["A"] = AT_REST._replace(settled_minor=854, available_minor=4)


def _lose_a_cent_in_redis(history: History, observed: Observed) -> None:
    observed.redis["A"] = AT_REST._replace(available_minor=4)


def _lose_a_cent_in_the_api(history: History, observed: Observed) -> None:
    observed.api[URL]["A"] = AT_REST._replace(available_minor=4)


def _unload_an_account(history: History, observed: Observed) -> None:
    observed.redis.clear()


def _never_come_back(history: History, observed: Observed) -> None:
    observed.mode = "postgres"


def _create_money(history: History, observed: Observed) -> None:
    observed.totals_minor["USD"] = (0, 1)


def _overdraw_for_a_moment(history: History, observed: Observed) -> None:
    observed.rows[2] = ROWS[2]._replace(batch_seq=5)


def _leave_a_reservation(history: History, observed: Observed) -> None:
    observed.reservations.append("attempt 7: [{},{},{}] A 1 -400 0:key:k1")


def _fail_the_proof(history: History, observed: Observed) -> None:
    observed.verify = {**PROOF, "status": "mismatch", "mismatches": [{}]}


def _prove_a_part(history: History, observed: Observed) -> None:
    observed.verify = {**PROOF, "complete": False}


def _prove_without_redis(history: History, observed: Observed) -> None:
    observed.verify = {**PROOF, "compared": {}}


def _offer_no_proof(history: History, observed: Observed) -> None:
    observed.verify = {"status": "answered 404 not_found"}


def _keep_an_old_epoch(history: History, observed: Observed) -> None:
    observed.stale_keys.append("subbalance:{0}:1:account:A")


@pytest.mark.parametrize(
    ("lie", "noticed_by"),
    [
        (_lose_a_row, "every 2xx is in the journal exactly once"),
        (_double_a_row, "every 2xx is in the journal exactly once"),
        (_forget_an_acknowledgement, "the journal holds nothing that was not asked"),
        (_invent_an_acknowledgement, "sum of accepted = change of balance"),
        (_tell_another_id, "a repeated key gets the first answer"),
        (_journal_a_refused_one, "a definite refusal changed nothing"),
        (_move_another_amount, "the journal holds nothing that was not asked"),
        (_name_another_mode, "answers name who decided"),
        (_lose_a_cent_in_postgres, "sum of accepted = change of balance"),
        (_lose_a_cent_in_postgres, "balances are the sums of their rows"),
        (_lose_a_cent_in_redis, "API = PostgreSQL = Redis to the cent"),
        (_lose_a_cent_in_the_api, "API = PostgreSQL = Redis to the cent"),
        (_unload_an_account, "API = PostgreSQL = Redis to the cent"),
        (_never_come_back, "API = PostgreSQL = Redis to the cent"),
        (_create_money, "per currency all balances sum to zero"),
        (_overdraw_for_a_moment, "no account is overdrawn at any prefix of the journal"),
        (_leave_a_reservation, "no reservation is left in Redis"),
        (_fail_the_proof, "GET /api/v1/verify proves it"),
        (_prove_a_part, "GET /api/v1/verify proves it"),
        (_prove_without_redis, "GET /api/v1/verify proves it"),
        (_offer_no_proof, "GET /api/v1/verify proves it"),
        (_keep_an_old_epoch, "nothing of ended epochs is left in Redis"),
    ],
    ids=lambda part: part.__name__.strip("_") if callable(part) else part,
)
def test_a_lie_fails_the_check_it_belongs_to(
    lie: Callable[[History, Observed], None], noticed_by: str
) -> None:
    history, observed = true_story()
    lie(history, observed)
    checks = check_integrity(history, observed)
    assert noticed_by in {check.name for check in checks if not check.passed}
    assert verdict(all_passed(checks)) == "Failed"


def drill_of(first_mode: str, second_mode: str) -> FailureResult:
    """A finished drill in which the two transactions were decided so."""
    history, observed = true_story()
    result = FailureResult("told", {}, history, first_postgres_at=1.0, first_redis_at=2.0)
    result.integrity = check_integrity(history, observed)
    result.under_load = Check("the service proves its books under load", True, "verified")
    for name, expected, mode, intention, row in (
        ("transaction 1", "redis", first_mode, history.intentions[0], ROWS[1]),
        ("transaction 2", "postgres", second_mode, history.intentions[1], ROWS[2]),
    ):
        said = row._replace(mode=mode)
        result.transactions.append(NamedTransaction(name, expected, intention, said))
    return result


def test_a_drill_passes_only_when_each_transaction_went_its_way() -> None:
    assert drill_of("redis", "postgres").passed
    assert not drill_of("redis", "redis").passed
    assert not drill_of("postgres", "postgres").passed


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("first_postgres_at", None),
        ("first_redis_at", None),
        ("under_load", Check("the service proves its books under load", False, "mismatch")),
    ],
)
def test_a_drill_without_fallback_recovery_or_proof_fails(fact: str, value: object) -> None:
    result = drill_of("redis", "postgres")
    setattr(result, fact, value)
    assert not result.passed
    assert "* Redis failure: Failed" in failure_lines(result)


def test_a_transaction_that_is_not_settled_or_lost_its_id_fails() -> None:
    (transaction, _) = drill_of("redis", "postgres").transactions
    assert transaction.passed
    assert transaction.row is not None
    for row in (
        transaction.row._replace(status="PENDING"),
        transaction.row._replace(transaction_id="t9"),
    ):
        told = deepcopy(transaction)
        told.row = row
        assert not told.passed


@pytest.mark.parametrize(("epoch", "passed"), [(3, True), (2, False)])
def test_a_decision_in_an_epoch_of_the_backup_fails(epoch: int, passed: bool) -> None:
    restored, after = Observed("redis", 2, ROWS[:3]), Observed("redis", 2, list(ROWS))
    after.rows = [*ROWS[:3], ROWS[3]._replace(epoch=epoch)]
    assert check_new_epoch(restored, after).passed is passed


def test_nothing_checked_is_not_passed() -> None:
    assert not all_passed([])


@pytest.mark.parametrize(
    ("decided", "sendings", "grade"),
    [
        (900, 1_000, "Excellent"),
        (899, 1_000, "Good"),
        (700, 1_000, "Good"),
        (699, 1_000, "Poor"),
        (0, 0, "Poor"),
    ],
)
def test_grades_are_the_specifications(decided: int, sendings: int, grade: str) -> None:
    assert SuccessRate(decided, sendings).grade == grade
