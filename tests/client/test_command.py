"""The command line against the real service: what it prints, and its exit codes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from subbalance.command.main import main
from tests.client.flaky import DONE_AND_CUT, answering, flaky

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """Runs commands in this process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *words: str, code: int = 0) -> Result:
        """Run a command and check its exit code."""
        result = CliRunner().invoke(main, ["--url", self.url, *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def read(self, *words: str, code: int = 0) -> Any:
        """Run a command and read the one thing it prints as JSON."""
        return json.loads(self.run("--json", *words, code=code).stdout)


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


@pytest.fixture
def accounts(shell: Shell, a: str, b: str) -> None:
    shell.run("accounts", "open", a, "--opening-balance", "100", "--metadata", f"test={a}")
    shell.run("accounts", "open", b, "--metadata", f"test={a}")


def test_accounts_are_opened_shown_changed_frozen_closed_and_listed(
    shell: Shell, accounts: None, a: str, b: str
) -> None:
    assert shell.read("accounts", "show", a)["metadata"] == {"test": a}
    changed = shell.read("accounts", "change", b, "--credit-limit", "5.5")
    assert (changed["credit_limit"], changed["metadata"]) == ("5.50", {"test": a})
    stale = changed["etag"]
    assert shell.read("accounts", "freeze", b, "debit")["frozen"] == "debit"
    refused = shell.run("accounts", "close", b, "--if-match", stale, code=1)
    assert "precondition_failed" in refused.stderr
    assert shell.read("accounts", "close", b)["closed"] is True
    listed = shell.run("accounts", "list", "--metadata", f"test={a}").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["account_id", a, b]
    still_open = shell.run("--json", "accounts", "list", "--open", "--metadata", f"test={a}")
    assert [json.loads(line)["account_id"] for line in still_open.stdout.splitlines()] == [a]


def test_money_is_posted_transferred_and_shown(
    shell: Shell, accounts: None, a: str, b: str
) -> None:
    done = shell.read("post", a, "debit", "12.5", "--key", f"{a}-k", "--reference", "rent")
    assert (done["amount"], done["reference"], done["replayed"]) == ("12.50", "rent", False)
    assert shell.read("post", a, "debit", "12.5", "--key", f"{a}-k", "--reference", "rent")[
        "replayed"
    ]
    assert shell.read("find", f"{a}-k")["transaction_id"] == done["transaction_id"]
    moved = shell.read("transfer", a, b, "7", "--key", f"{a}-t")
    assert shell.read("find", f"{a}-t")["transfer_id"] == moved["transfer_id"]
    missed = shell.run("find", f"{a}-nothing", code=1).stderr
    assert missed == "refused: transaction_not_found: Nothing was accepted under this key.\n"
    assert shell.read("balance", b)["available_balance"] == "7.00"
    plain = dict(line.split("\t") for line in shell.run("balance", a).stdout.splitlines())
    assert plain["available_balance"] == "80.50"
    assert shell.run("pending", a).stdout.startswith("timestamp\ttransaction_id\ttype")


def test_a_transaction_is_tried_done_if_as_expected_and_taken_back(
    shell: Shell, accounts: None, a: str, b: str
) -> None:
    tried = shell.read("post", a, "debit", "30", "--dry-run")
    assert tried["accounts"][0]["available_balance"] == "70.00"
    assert shell.read("transfer", a, b, "1", "--dry-run")["outcome"] == "accepted"
    assert shell.read("balance", a)["available_balance"] == "100.00"
    shell.run("post", a, "debit", "30", "--expect-available", "100.01", code=1)
    version = str(shell.read("balance", a)["version"])
    done = shell.read("post", a, "debit", "30", "--expect-version", version)
    shell.run("post", a, "debit", "30", "--expect-version", version, code=1)
    assert shell.read("reverse", done["transaction_id"], "--dry-run")["outcome"] == "accepted"
    assert shell.read("reverse", done["transaction_id"])["reverses"] == done["transaction_id"]
    assert shell.read("balance", a)["available_balance"] == "100.00"


def test_holds_are_placed_captured_released_and_listed(
    shell: Shell, accounts: None, a: str, b: str
) -> None:
    hold = shell.read("holds", "place", a, "60", "--credit", b, "--expires-in", "60")
    assert shell.read("holds", "capture", hold["hold_id"], "10")["remaining"] == "50.00"
    last = shell.read("holds", "capture", hold["hold_id"], "10", "--final")
    assert (last["status"], last["released"]) == ("CAPTURED", "40.00")
    other = shell.read("holds", "place", a, "1")
    assert shell.read("holds", "release", other["hold_id"])["status"] == "RELEASED"
    assert shell.read("holds", "show", other["hold_id"])["status"] == "RELEASED"
    listed = shell.run("holds", "list", a, "--status", "released").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["hold_id", other["hold_id"]]


def test_health_and_verify_say_how_it_is(shell: Shell) -> None:
    assert shell.read("health")["mode"] == "redis"
    assert shell.read("health", "--details")["ready"] is True
    assert shell.read("verify")["status"] == "verified"


def test_a_refusal_is_exit_code_1(shell: Shell, accounts: None, a: str) -> None:
    plain = shell.run("post", a, "debit", "100.01", code=1)
    assert plain.stderr.startswith("refused: insufficient_available: ")
    assert "requested 100.01, available 100.00" in plain.stderr
    told = json.loads(shell.run("--json", "post", a, "debit", "100.01", code=1).stderr)
    assert (told["code"], told["members"]["available"]) == ("insufficient_available", "100.00")


@pytest.mark.parametrize(
    "words",
    [
        ["post", "A", "debit", "1e400x"],
        ["post", "A", "debit", "NaN"],
        ["post", "A", "sideways", "1"],
        ["post", "A", "debit", "1", "--key", "a b"],
        ["accounts", "open", "A", "--metadata", "nothing"],
        ["accounts", "show", ".."],
        ["nothing"],
    ],
)
def test_wrong_use_is_exit_code_2_and_sends_nothing(words: list[str]) -> None:
    with flaky("", answering("500 X")) as server:
        Shell(server.url).run(*words, code=2)
        CliRunner().invoke(main, ["--url", "ftp://x", "health"])
    assert server.seen == []


def test_an_unknown_outcome_is_exit_code_3_with_its_key(url: str, accounts: None, a: str) -> None:
    with flaky(url, DONE_AND_CUT) as server:
        result = Shell(server.url).run("post", a, "debit", "1", "--key", f"{a}-k", code=3)
    assert "outcome unknown" in result.stderr
    assert f"idempotency key {a}-k" in result.stderr
    assert Shell(url).read("find", f"{a}-k")["amount"] == "1.00"


def test_an_unwell_service_is_exit_code_3(free_port: int) -> None:
    Shell(f"http://127.0.0.1:{free_port}").run("--deadline", "0.3", "health", code=3)
    body = b'{"status":"unavailable","mode":"closed","epoch":1}'
    with flaky("", answering("503 X", body, content_type="application/json")) as server:
        assert Shell(server.url).read("health", code=3)["status"] == "unavailable"


def test_accounts_and_balances_are_exported(shell: Shell, a: str, tmp_path: Path) -> None:
    shell.run("accounts", "open", a, "--currency", "JPY", "--opening-balance", "7")
    lines = shell.run("export", "balances", "--currency", "JPY").stdout.splitlines()
    assert lines[0].startswith("account_id,currency,settled_balance,")
    assert [line.split(",")[0] for line in lines[1:]].count(a) == 1
    out = tmp_path / "accounts.csv"
    shell.run("export", "accounts", "--currency", "JPY", "--out", str(out))
    assert f"\n{a},JPY,0,none,no," in out.read_text()


def test_it_runs_as_a_process_with_the_url_in_the_environment(service: Any) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "subbalance", "--json", "health"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LEDGER_URL": service.url},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(ran.stdout)["mode"] == "redis"


def test_a_person_gets_a_table(service: Any, shell: Shell, accounts: None, a: str) -> None:
    ours, theirs = pty.openpty()
    words = ["accounts", "list", "--metadata", f"test={a}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "subbalance", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LEDGER_URL": service.url, "COLUMNS": "120"},
        stdout=theirs,
    )
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    os.close(ours)
    assert process.wait(30) == 0
    assert "┏━" in shown.decode()
    assert a in shown.decode()


def _read(terminal: int) -> bytes:
    """Read what was printed; Linux says the end of it as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""
