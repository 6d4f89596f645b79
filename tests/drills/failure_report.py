"""The report of a Redis failure drill."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from app.kit.money import decimal_text
from tests.drills.history import Intention
from tests.drills.load import EXPONENT, settings_text
from tests.drills.redis_failure import FailureResult, NamedTransaction
from tests.drills.report import check_table, phase_table, table, verdict, write_report

REPORT_NAME = "redis_failure_recovery_report"


def write_failure_report(folder: Path, result: FailureResult) -> Path:
    """Write the drill's report under the specification's name; returns where."""
    return write_report(folder, REPORT_NAME, failure_lines(result))


def failure_lines(result: FailureResult) -> list[str]:
    """The whole report, line by line."""
    return [
        "# Redis failure and recovery",
        "",
        f"Scenario: {result.outage}. Settings: {settings_text(result.environment)}.",
        "",
        *summary_lines(result),
        "",
        "## Timeline",
        "",
        *table(("measured", "what"), _timeline(result)),
        "",
        "## The two transactions",
        "",
        *_transactions(result),
        "",
        "## Load",
        "",
        *phase_table(result.phases),
        "",
        "## Balance integrity",
        "",
        *check_table(result.integrity),
        "",
        "## Redis failure",
        "",
        *check_table(result.failure_checks),
    ]


def summary_lines(result: FailureResult) -> list[str]:
    """The verdicts, as the specification words them."""
    rate = result.rate
    return [
        f"* Success rate: {rate.text} of {rate.sendings} requests: {rate.grade}",
        f"* Balance integrity: {verdict(result.is_intact)}",
        f"* Redis failure: {verdict(result.passed)}",
    ]


def _timeline(result: FailureResult) -> Iterable[tuple[str, str]]:
    events: list[tuple[float | None, str]] = [
        (result.failed_at, "Redis fails"),
        (result.first_postgres_at, f"first accepted in mode postgres, {_after_failure(result)}"),
        (result.back_at, "Redis answers again"),
        (result.first_redis_at, f"first admitted by Redis again, {_after_return(result)}"),
        (result.checked_at, "consistency check under load, then of everything at rest"),
    ]
    for transaction in result.transactions:
        events.append((transaction.intention.accepted_at, f"{transaction.name} accepted"))
        events.append((transaction.settled_at, f"{transaction.name} seen as SETTLED"))
    events.sort(key=lambda event: event[0] if event[0] is not None else float("inf"))
    for moment, text in events:
        when = "never" if moment is None else f"T+{moment - result.begun_at:.3f} s"
        yield when, text


def _after_failure(result: FailureResult) -> str:
    return f"{result.seconds_text(result.first_postgres_at, result.failed_at)} after the failure"


def _after_return(result: FailureResult) -> str:
    return f"{result.seconds_text(result.first_redis_at, result.back_at)} after the return"


def _transactions(result: FailureResult) -> list[str]:
    titles = ("transaction", "change", "decided by", "epoch", "status", "id", "requests", "result")
    return table(titles, [_transaction(transaction) for transaction in result.transactions])


def _answers(intention: Intention) -> str:
    """Every answer with how often it came, in the order of the first of each."""
    counts = Counter(f"{sending.status} {sending.code}".strip() for sending in intention.sendings)
    return ", ".join(f"{count} x {text}" for text, count in counts.items())


def _transaction(transaction: NamedTransaction) -> tuple[object, ...]:
    row, intention = transaction.row, transaction.intention
    told = intention.acceptances[0].accepted_as if intention.acceptances else "not accepted"
    return (
        transaction.name,
        decimal_text(intention.change_minor, EXPONENT),
        row.mode if row else "nobody",
        row.epoch if row else "",
        f"{told} -> {row.status if row else 'nothing'}",
        row.transaction_id if row else "",
        _answers(intention),
        verdict(transaction.passed),
    )
