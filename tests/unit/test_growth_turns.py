"""Turns on the machine are exclusive, kept over blocks, and given up after a while."""

import fcntl
from pathlib import Path

import pytest

from bench.growth import stand
from bench.growth.stand import Turns


def is_free(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand, "_PAUSE_S", 0)


def test_a_turn_lasts_over_blocks_until_it_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    turns = Turns(path)
    with turns:
        assert not is_free(path)
    assert not is_free(path)
    with turns:
        assert not is_free(path)
    turns.end()
    assert is_free(path)


def test_a_long_turn_is_given_up_after_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand, "_TURN_S", 0)
    path = tmp_path / "lock"
    with Turns(path):
        assert not is_free(path)
    assert is_free(path)


def test_without_a_file_nobody_waits() -> None:
    turns = Turns(None)
    with turns:
        pass
    turns.end()
