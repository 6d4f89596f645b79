"""Some API processes behind one address: started, replaced, started again, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from app.infra.source_watch import SourceWatch
from tests.cluster import HOST, ROOT, free_port, is_ready

START_S = 60.0


def two_free_ports() -> int:
    """The first of two free ports that follow each other."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, first + 1))
            return first


def has_metrics(port: int) -> bool:
    """Tell whether an API shows its own metrics there."""
    with contextlib.suppress(OSError), urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as told:
        return b'subbalance_process_info{process="api"} 1.0' in told.read()
    return False


class Instances:
    """The command in a process of its own, and what it wrote."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.port = free_port()
        self.metrics_port = two_free_ports()
        self.url = f"http://{HOST}:{self.port}"
        self.log = folder / "instances.log"
        self.break_file = folder / "sitecustomize.py"
        environment = {
            "PATH": os.environ["PATH"], "HOST": HOST, "PORT": str(self.port),
            "DATABASE_URL": database_url, "REDIS_URL": redis_url,
            "PYTHONPATH": f"{folder}:{ROOT}", "SUBBALANCE_METRICS_PORT": str(self.metrics_port),
        }  # fmt: skip
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.instances", "--count", "2"],
                cwd=folder, env=environment, stdout=output, stderr=output,
            )  # fmt: skip

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.log.read_text()

    def children(self) -> list[int]:
        """The process ids of the APIs."""
        name = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(name).read_text().split()]


@pytest.fixture
def instances(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Instances]:
    """Two APIs that serve."""
    started = Instances(tmp_path, database_url, redis_url)
    try:
        started.wait(started.says("2 processes serve"))
        yield started
    finally:
        started.process.terminate()
        assert started.process.wait(30) == 0


def test_sighup_puts_new_processes_in_the_place_of_all(instances: Instances) -> None:
    before = instances.children()
    instances.process.send_signal(signal.SIGHUP)
    instances.wait(instances.says("2 processes were replaced"))
    after = instances.children()
    assert len(after) == 2
    assert not set(before) & set(after)
    assert is_ready(instances.url)


def test_each_process_has_a_port_for_its_metrics_and_so_has_the_one_after_it(
    instances: Instances,
) -> None:
    ports = (instances.metrics_port, instances.metrics_port + 1)
    instances.wait(lambda: all(map(has_metrics, ports)))
    instances.process.send_signal(signal.SIGHUP)
    instances.wait(instances.says("2 processes were replaced"))
    instances.wait(lambda: all(map(has_metrics, ports)))


def test_a_new_process_that_does_not_serve_replaces_none(instances: Instances) -> None:
    before = instances.children()
    # Whatever Python starts from now on ends at once, as with a broken release.
    instances.break_file.write_text("import os; os._exit(3)")
    instances.process.send_signal(signal.SIGHUP)
    instances.wait(instances.says("not replaced: a new process does not serve; it ended with 3"))
    assert instances.children() == before
    assert is_ready(instances.url)


def test_a_process_that_dies_is_started_again(instances: Instances) -> None:
    victim = instances.children()[0]
    os.kill(victim, signal.SIGKILL)
    instances.wait(instances.says("a process ended with -9; starting another"))
    instances.wait(lambda: len(instances.children()) == 2 and victim not in instances.children())
    assert is_ready(instances.url)


def test_those_that_live_serve_on_when_no_other_can_be_started(instances: Instances) -> None:
    instances.break_file.write_text("import os; os._exit(3)")
    victim, other = instances.children()
    os.kill(victim, signal.SIGKILL)
    # It is tried again and again, a bounded number of times.
    instances.wait(lambda: instances.log.read_text().count("it ended with 3") == 20)
    assert instances.children() == [other]
    assert is_ready(instances.url)


@pytest.mark.parametrize("number", ["77", "0x3", "-1"])
def test_a_socket_that_is_none_is_refused_at_the_start(number: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.main"],
        cwd=ROOT, env={"SUBBALANCE_LISTEN_FD": number}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "SUBBALANCE_LISTEN_FD" in done.stderr


def test_an_address_that_is_taken_is_said_to_be() -> None:
    with socket.create_server((HOST, 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-m", "app.instances"],
            cwd=ROOT, env={"HOST": HOST, "PORT": str(taken.getsockname()[1])},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_a_source_that_changes_is_noticed_once(tmp_path: Path) -> None:
    kept = tmp_path / "kept.py"
    kept.write_text("1")
    watch = SourceWatch([tmp_path])
    assert watch.changed() == ""
    (tmp_path / "notes.txt").write_text("not a source")
    assert watch.changed() == ""
    os.utime(kept, ns=(1, 1))
    assert (watch.changed(), watch.changed()) == ("kept.py", "")
    (tmp_path / "new.lua").write_text("return 1")
    assert watch.changed() == "new.lua"
    kept.unlink()
    assert watch.changed() == "kept.py"
