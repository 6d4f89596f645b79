"""`subbalance import`: checked first, sent once however often it runs, reported exactly."""

import csv
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from subbalance import Client
from subbalance.command import importing
from tests.client.flaky import CUT, DONE_AND_CUT, HANG, PASS, Behaviour, answering, flaky
from tests.client.test_command import ROOT, Shell


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


@pytest.fixture
def accounts(url: str, a: str, b: str) -> None:
    with Client(url) as ledger:
        ledger.open_account(a, opening_balance=1_000)
        ledger.open_account(b)


def available(url: str, account_id: str) -> Decimal:
    with Client(url) as ledger:
        return ledger.get_balance(account_id).available_balance


def written(tmp_path: Path, *lines: str, name: str = "") -> Path:
    """Write a file of a name that no other test uses: the name is part of the keys."""
    path = tmp_path / (name or f"{tmp_path.name}.csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def counts(report: dict[str, int]) -> tuple[int, ...]:
    return tuple(
        report[name] for name in ("accepted", "replayed", "refused", "unclear", "not_sent", "bad")
    )


def refused_rows(path: Path) -> list[dict[str, str]]:
    with path.with_name(f"{path.name}.refused.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_sent_again_moves_nothing_twice(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    same = f"{a},debit,10,rent"
    path = written(tmp_path, "account_id,type,amount,reference", same, same, f"{a},credit,1,")
    first = shell.read("import", str(path), "--batch", "2")
    again = shell.read("import", str(path))
    assert counts(first) == (3, 0, 0, 0, 0, 0)
    assert counts(again) == (0, 3, 0, 0, 0, 0)
    assert available(url, a) == Decimal(981)
    assert not path.with_name(f"{path.name}.refused.csv").exists()


def test_a_changed_file_sends_only_what_is_new(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    head = "account_id,type,amount"
    path = written(tmp_path, head, f"{a},debit,1", f"{a},debit,2")
    shell.read("import", str(path))
    path = written(tmp_path, head, f"{a},debit,4", f"{a},debit,2", f"{a},debit,1", f"{a},debit,1")
    report = shell.read("import", str(path))
    assert counts(report) == (2, 2, 0, 0, 0, 0)
    assert available(url, a) == Decimal(1_000 - 1 - 2 - 4 - 1)


def test_one_that_is_interrupted_says_how_far_it_came(
    shell: Shell,
    accounts: None,
    url: str,
    a: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path, "account_id,type,amount", *[f"{a},debit,1"] * 9)
    count_one, done = importing._count_one, list[Any]()

    def interrupted(*what: Any) -> None:
        count_one(*what)
        done.append(what)
        if len(done) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_count_one", interrupted)
    stopped = shell.run("--json", "import", str(path), "--batch", "2", code=3)
    assert counts(json.loads(stopped.stdout)) == (4, 0, 0, 0, 5, 0)
    assert "interrupted; what was sent may have been done" in stopped.stderr
    assert counts(shell.read("import", str(path))) == (5, 4, 0, 0, 0, 0)
    assert available(url, a) == Decimal(991)


def test_rows_may_count_for_an_earlier_time(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    row = f"{a},debit,1,2026-01-31T23:59:59Z,{a}-key"
    path = written(tmp_path, "account_id,type,amount,effective_at,idempotency_key", row)
    assert counts(shell.read("import", str(path))) == (1, 0, 0, 0, 0, 0)
    with Client(url) as ledger:
        found = ledger.find_transaction(f"{a}-key")
    assert found.effective_at == datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    path = written(tmp_path, "account_id,type,amount,effective_at", f"{a},debit,1,2026-01-31")
    assert "column effective_at: not an instant" in shell.run("import", str(path), code=2).stderr


def test_the_same_rows_under_another_name_are_other_payments(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "account_id,type,amount", f"{a},debit,1")
    for name in ("november", "december", "december"):
        shell.read("import", str(path), "--name", f"{a}-{name}")
    assert available(url, a) == Decimal(998)


def test_what_is_refused_is_written_down_and_can_be_sent_again(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    head = "account_id,type,amount,metadata.note"
    rows = (f"{a},debit,600,one", f"{a},debit,600,two", "nobody,credit,1,", f"{a},debit,1,last")
    path = written(tmp_path, head, *rows)
    report = shell.read("import", str(path), code=1)
    assert counts(report) == (2, 0, 2, 0, 0, 0)
    assert report["refused_file"] == f"{path}.refused.csv"
    refused = refused_rows(path)
    assert [(row["refused_line"], row["refused_code"]) for row in refused] == [
        ("3", "insufficient_available"),
        ("4", "account_not_found"),
    ]
    with Client(url) as ledger:
        ledger.credit(a, 1_000)
        ledger.open_account("nobody")
    assert counts(shell.read("import", f"{path}.refused.csv")) == (2, 0, 0, 0, 0, 0)
    assert counts(shell.read("import", str(path))) == (0, 4, 0, 0, 0, 0)
    assert not Path(f"{path}.refused.csv").exists()
    assert available(url, a) == Decimal(2_000 - 600 - 600 - 1)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("A,debit,1.5.0,r", "line 3, column amount: not a plain decimal number: '1.5.0'"),
        ("A,debit,0.00,r", "line 3, column amount: an amount is greater than zero: '0.00'"),
        ("A,debit,,r", "line 3, column amount: missing"),
        ("A,sideways,1,r", "line 3, column type: neither debit nor credit: 'sideways'"),
        ("a b,debit,1,r", "line 3, column account_id: not an account id: 'a b'"),
        ("A,debit,1", "line 3: 3 values where there are 4 columns"),
        ("A,debit,1," + "r" * 141, "line 3, column reference: longer than 140 characters"),
    ],
)
def test_bad_rows_are_told_before_anything_is_sent(tmp_path: Path, row: str, told: str) -> None:
    path = written(tmp_path, "account_id,type,amount,reference", "A,debit,1,r", row)
    with flaky("", answering("500 X")) as server:
        result = Shell(server.url).run("import", str(path), code=2)
    assert told in result.stderr
    assert "1 bad rows, nothing was sent" in result.stderr
    assert server.seen == []


def test_bad_rows_may_be_skipped_and_are_written_down(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "account_id,type,amount", f"{a},debit,one", f"{a},debit,1")
    report = shell.read("import", str(path), "--skip-bad", code=1)
    assert (report["rows"], counts(report)) == (2, (1, 0, 0, 0, 0, 1))
    (row,) = refused_rows(path)
    assert (row["amount"], row["refused_code"]) == ("one", "bad_row")
    assert available(url, a) == Decimal(999)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("", "the columns are"),
        ("account_id,amount", "have no column 'amount'"),
        ("account_id,type,amount,colour", "have no column 'colour'"),
        ("account_id,type,amount,amount", "column 'amount' is there twice"),
    ],
)
def test_a_file_of_no_kind_is_wrong_use(shell: Shell, tmp_path: Path, head: str, told: str) -> None:
    result = shell.run("import", str(written(tmp_path, head)), code=2)
    assert told in " ".join(result.stderr.split())


def test_two_rows_of_one_key_are_one_too_many(shell: Shell, tmp_path: Path) -> None:
    path = written(tmp_path, "account_id,type,amount,idempotency_key", "A,debit,1,k", "B,debit,1,k")
    result = shell.run("import", str(path), code=2)
    assert "line 3, column idempotency_key: another row has it already: 'k'" in result.stderr


def test_accounts_are_imported_once(shell: Shell, url: str, a: str, tmp_path: Path) -> None:
    head = "account_id,currency,opening_balance,credit_limit,metadata.owner"
    rows = [f"{a}-{number},EUR,{number}.50,,me" for number in range(20)]
    path = written(tmp_path, head, *rows)
    assert counts(shell.read("import", str(path))) == (20, 0, 0, 0, 0, 0)
    assert counts(shell.read("import", str(path))) == (0, 20, 0, 0, 0, 0)
    assert available(url, f"{a}-19") == Decimal("19.50")
    path = written(tmp_path, head, f"{a}-0,EUR,7,,me")
    assert counts(shell.read("import", str(path), code=1)) == (0, 0, 1, 0, 0, 0)
    assert refused_rows(path)[0]["refused_code"] == "account_exists"


def test_transfers_are_imported_in_their_order(
    shell: Shell, accounts: None, url: str, a: str, b: str, tmp_path: Path
) -> None:
    head = "debit_account_id,credit_account_id,amount"
    rows = [f"{a},{b},10", f"{b},{a},10", f"{a},{b},10", f"{b},{a},9", f"{b},{a},9"]
    path = written(tmp_path, head, *rows)
    assert counts(shell.read("import", str(path), code=1)) == (4, 0, 1, 0, 0, 0)
    assert refused_rows(path)[0]["refused_line"] == "6"
    assert available(url, b) == Decimal(1)


@pytest.mark.parametrize("trouble", [CUT, DONE_AND_CUT, answering("503 X")])
def test_it_stops_after_unclear_requests_and_goes_on_when_run_again(
    accounts: None, url: str, a: str, tmp_path: Path, trouble: Behaviour
) -> None:
    rows = [f"{a},debit,{number}" for number in range(1, 11)]
    path = written(tmp_path, "account_id,type,amount", *rows)
    words = ("import", str(path), "--batch", "2", "--max-unclear", "2")
    with flaky(url, PASS, trouble) as server:
        report = Shell(server.url).read("--deadline", "5", *words, code=3)
        assert counts(report) == (2, 0, 0, 4, 4, 0)
    again = Shell(url).read(*words)
    assert sum(counts(again)[:2]) == 10
    assert available(url, a) == Decimal(1_000 - 55)


def test_a_request_that_is_refused_whole_ends_the_import(a: str, tmp_path: Path) -> None:
    path = written(tmp_path, "account_id,type,amount", f"{a},debit,1", f"{a},debit,2")
    with flaky("", answering("403 Forbidden")) as server:
        result = Shell(server.url).run("import", str(path), "--batch", "1", code=1)
    assert "http_403" in result.stderr
    assert "not_sent\t2" in result.stdout
    assert len(server.seen) == 1


def test_a_refusal_after_an_unclear_attempt_is_not_the_last_word(
    url: str, a: str, b: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "debit_account_id,credit_account_id,amount", f"{a},{b},1")
    with flaky(url, answering("504 X"), PASS) as server:
        report = Shell(server.url).read("import", str(path), code=3)
    assert counts(report) == (0, 0, 0, 1, 0, 0)
    assert counts(Shell(url).read("import", str(path), code=1)) == (0, 0, 1, 0, 0, 0)


def test_killed_in_the_middle_and_run_again_every_row_is_there_once(
    shell: Shell, accounts: None, url: str, a: str, tmp_path: Path
) -> None:
    """The request under way is done by the service, and its answer never comes."""
    rows = [f"{a},debit,{number % 3 + 1}" for number in range(60)]
    path = written(tmp_path, "account_id,type,amount", *rows)
    done_and_hanging = Behaviour(passes=True, hangs=True)
    with flaky(url, PASS, PASS, done_and_hanging) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "subbalance", "import", str(path), "--batch", "10"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "LEDGER_URL": server.url},
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while available(url, a) != Decimal(1_000 - 60):
            assert time.monotonic() < deadline, "the third request was never done"
        process.kill()
        process.wait()
    report = shell.read("import", str(path))
    assert counts(report) == (30, 30, 0, 0, 0, 0)
    assert available(url, a) == Decimal(1_000 - 120)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]


def test_a_hanging_service_is_given_up_in_time(a: str, tmp_path: Path) -> None:
    path = written(tmp_path, "account_id,type,amount", f"{a},debit,1")
    with flaky("", HANG) as server:
        began = time.monotonic()
        report = Shell(server.url).read("--deadline", "0.5", "import", str(path), code=3)
    assert time.monotonic() - began < 3
    assert counts(report) == (0, 0, 0, 1, 0, 0)
