"""Every make target that needs no Docker does what it says, in a copy of the checkout.

The outcome of each is written to `reports/make_targets.md`.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from tests.cluster import free_port, is_ready

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", ".data", "reports", "__pycache__", "results", ".*_cache", ".hypothesis"
)
SHORT = "--seconds 1 --no-ceiling"
SMALL = "--scale 0.1 --connections 8 --per-second 150 --instances 1"
ELSEWHERE = {
    "test": "runs this test among all others",
    "check": "`.ci/run` runs it before the tests",
    "rolling-restart": "`tests/drills/test_drills.py`, with fewer requests",
    "recovery-times": "`tests/drills/test_drills.py`, with fewer rounds",
    "restore-drill": "`tests/drills/test_drills.py`, with less load",
    "chaos": "`tests/chaos/test_chaos.py`, shorter",
    "protocol": "`tests/protocol/test_protocol.py`",
    "docker-up": "needs Docker; `tests/tidy/test_packaging.py` checks its file",
    "docker-down": "needs Docker",
}


class Outcome(NamedTuple):
    """What a target that was run came to."""

    command: str
    seconds: float
    shown: str


outcomes: dict[str, Outcome] = {}


class Checkout:
    """A copy of the checkout, in which targets are run as a person would."""

    def __init__(self, folder: Path, git_folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.environment = {
            **kept, "PORT": str(self.port), "SETTLEMENT_INTERVAL": "300ms",
            "GIT_DIR": str(git_folder),
        }  # fmt: skip
        self.service: subprocess.Popen[bytes] | None = None

    def make(self, *arguments: str, code: int = 0) -> str:
        """Run a target and remember what it came to; what it printed."""
        begun = time.monotonic()
        done = subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=110,
            check=False,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert bool(done.returncode) == bool(code), printed
        if not code:
            lines = [line.strip() for line in printed.splitlines() if line.strip()]
            command = " ".join(["make", *arguments])
            took_s = time.monotonic() - begun
            outcomes[arguments[0]] = Outcome(command, took_s, lines[-1] if lines else "nothing")
        return printed

    def start(self, target: str) -> Path:
        """Start a target that runs until it is told to stop, and wait until it serves."""
        log = self.folder / f"{target}.log"
        begun = time.monotonic()
        with log.open("wb") as output:
            self.service = subprocess.Popen(
                ["make", "--no-print-directory", target],
                cwd=self.folder, env=self.environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: is_ready(self.url), log)
        outcomes[target] = Outcome(f"make {target}", time.monotonic() - begun, "it serves")
        return log

    def wait(self, condition: Callable[[], bool], log: Path) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < deadline, log.read_text()
            assert self.service is None or self.service.poll() is None, log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            self.service.wait(30)
            self.service = None

    def execute(self, statement: str) -> str:
        """Run a statement in the service's database."""

        async def run() -> str:
            url = (self.folder / ".data/servers").read_text().split()[0]
            connection = await asyncpg.connect(url)
            try:
                return str(await connection.fetchval(statement))
            finally:
                await connection.close()

        return asyncio.run(run())


@pytest.fixture(scope="module")
def place() -> Iterator[Checkout]:
    """A copy with the environment of this one; nothing is installed or changed here."""
    with tempfile.TemporaryDirectory(prefix="sb-make-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        folder, git_folder = Path(name) / "copy", Path(name) / "git"
        shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND)
        (folder / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".installed":
                (folder / ".venv" / entry.name).symlink_to(entry)
        (folder / ".venv/.installed").touch()
        subprocess.run(["git", "init", "-q", "--bare", git_folder], check=True)
        yield Checkout(folder, git_folder)


@pytest.fixture(scope="module")
def checkout(place: Checkout) -> Iterator[Checkout]:
    """The copy with its service running; the table is written when all is over."""
    place.start("run")
    try:
        yield place
    finally:
        place.stop()
        write_table()


def write_table() -> None:
    rows = ["# Make targets", "", "| target | run as | took | it said last |", "|---|---|---|---|"]
    for name in targets():
        if name in outcomes:
            done = outcomes[name]
            said = done.shown.replace("|", "\\|")[:100]
            rows.append(f"| `{name}` | `{done.command}` | {done.seconds:.1f} s | {said} |")
        else:
            why = ELSEWHERE.get(name, "a measurement, not run by tests")
            rows.append(f"| `{name}` | not run here | | {why} |")
    (ROOT / "reports").mkdir(exist_ok=True)
    (ROOT / "reports/make_targets.md").write_text("\n".join(rows) + "\n")


def targets() -> list[str]:
    """The targets that `make help` lists."""
    found = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(found) == len(set(found)) > 30
    return found


RUNNING = [
    (("setup",), ""),
    (("build",), ""),
    (("help",), "make rolling-restart"),
    (("health",), '"status":"healthy"'),
    (("health-detailed",), '"features":{'),
    (("test-setup",), "ACC001"),
    (("test-status",), "ACC001"),
    (("test-simple", f"OPTIONS={SHORT}"), "Balance integrity: Passed"),
    (("test-tps", f"OPTIONS={SHORT}"), "Balance integrity: Passed"),
    (("test-reset",), "ACC001"),
    (("setup-multi",), "MULTI005"),
    (("test-multi", f"OPTIONS={SHORT}"), "Balance integrity: Passed"),
    (("test-multi-simple", f"OPTIONS={SHORT}"), "Balance integrity: Passed"),
    (("status-multi",), "MULTI001"),
    (("reset-multi",), "MULTI001"),
    (("test-clean",), "4 reports removed"),
    (("scenario", f"SCENARIO=--rates 50 {SHORT} --private"), "Balance integrity: Passed"),
    (("test-redis-failure", f"OPTIONS={SMALL}"), "Redis failure: Passed"),
    (("test-redis-failure-real", f"OPTIONS={SMALL}"), "Redis failure: Passed"),
    (("settle",), "settled "),
    (("verify",), "verified"),
    (("operate",), "mode redis"),
    (("logs",), "Uvicorn running"),
    (("logs-db",), "ready to accept connections"),
    (("logs-redis",), "eady to accept connections"),
    (("monitor-db",), "journal_batches_time"),
    (("format",), "files left unchanged"),
    (("dev-setup",), "runs make check"),
]


@pytest.mark.parametrize(("arguments", "shown"), RUNNING, ids=[row[0][0] for row in RUNNING])
def test_a_target_does_its_job(checkout: Checkout, arguments: tuple[str, ...], shown: str) -> None:
    assert shown in checkout.make(*arguments)


def test_pending_shows_count_and_sum_by_account(checkout: Checkout) -> None:
    checkout.make("operate", "DO=status")
    shown = checkout.make("pending")
    assert "Pending by account" in shown
    assert '"account_id":"ACC001"' in checkout.make("pending", "ACCOUNT=ACC001")


def test_optimize_db_builds_the_indexes_that_are_missing(checkout: Checkout) -> None:
    checkout.execute("DROP INDEX holds_due")
    checkout.execute("DROP INDEX journal_entries_reference")
    shown = checkout.make("optimize-db")
    assert "built holds_due on holds" in shown
    assert "built journal_entries_reference on journal_entries and its" in shown
    assert "indexes: 2 built" in shown
    valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid IN"
    names = "('holds_due'::regclass, 'journal_entries_reference'::regclass)"
    assert checkout.execute(f"{valid} {names}") == "True"
    assert "indexes: 0 built" in checkout.make("optimize-db")


def test_the_hook_runs_the_check(checkout: Checkout) -> None:
    checkout.make("dev-setup")
    hook = Path(checkout.environment["GIT_DIR"]) / "hooks/pre-commit"
    assert "make --no-print-directory check" in hook.read_text()
    assert os.access(hook, os.X_OK)
    hook.write_text("#!/bin/sh\n")
    assert "is yours and stays" in checkout.make("dev-setup", code=1)
    assert hook.read_text() == "#!/bin/sh\n"


def test_the_data_of_a_service_that_runs_cannot_be_removed(checkout: Checkout) -> None:
    assert "CONFIRM=yes" in checkout.make("db-reset", code=1)
    assert "already up" in checkout.make("db-reset", "CONFIRM=yes", code=1)
    assert "already up" in checkout.make("clean-data", code=1)
    assert is_ready(checkout.url)


def test_dev_begins_again_with_what_was_changed_and_the_rest_cleans_up(checkout: Checkout) -> None:
    checkout.stop()
    log = checkout.start("dev")
    source = checkout.folder / "app/main.py"
    source.write_text(source.read_text().replace('"0.1.0"', '"0.1.1"'))
    checkout.wait(lambda: "main.py changed; starting again" in log.read_text(), log)
    checkout.wait(lambda: is_ready(checkout.url), log)
    checkout.stop()
    assert "CONFIRM=yes" in checkout.make("db-reset", code=1)
    assert (checkout.folder / ".data").exists()
    checkout.make("db-reset", "CONFIRM=yes")
    assert not (checkout.folder / ".data").exists()
    checkout.make("clean-data")
    assert "make run writes it" in checkout.make("logs", code=1)
    checkout.make("clean")
    assert not (checkout.folder / ".venv").exists()
    assert (Path(sys.prefix) / "bin").is_dir()


def test_every_target_is_run_here_or_has_a_reason_why_not() -> None:
    run = {row[0][0] for row in RUNNING}
    run |= {"run", "dev", "pending", "optimize-db", "db-reset", "clean-data", "clean"}
    text = (ROOT / "Makefile").read_text().partition("##@ Measurements")[2].partition("##@")[0]
    measurements = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert set(targets()) == run | set(ELSEWHERE) | measurements
