"""Locks between processes: waited for, but not for ever."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from protocols.ipfs.errors import StoreFault
from protocols.ipfs.locks import HeldElsewhere, alone, held


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_lock_that_others_keep_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    path, time = tmp_path / "a.lock", Time()
    with (
        held(path),
        pytest.raises(StoreFault, match="held by somebody else"),
        held(path, 2.0, clock=time, sleep=time.sleep),
    ):
        pytest.fail("two have it")
    assert 2.0 <= time.seconds < 2.1


def test_a_lock_that_others_let_go_of_is_had_at_once(tmp_path: Path) -> None:
    path, time = tmp_path / "a.lock", Time()
    other = path.open("a")
    fcntl.flock(other, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        other.close()

    with held(path, 2.0, clock=time, sleep=sleep):
        assert time.seconds < 0.1
        with pytest.raises(StoreFault), held(path, 0.0):
            pytest.fail("two have it")
    with held(path, 0.0):
        assert path.exists()


async def test_the_lock_of_a_killed_holder_goes_with_the_next_fetch_of_anything(tmp_path: Path) -> None:
    """The file of each content that somebody was killed over stayed for ever."""
    (tmp_path / "killed.lock").touch()
    (tmp_path / "not ours").touch()
    async with alone(tmp_path / "other.lock", 0.0):
        assert set(os.listdir(tmp_path)) == {"other.lock", "not ours"}  # noqa: PTH208 in an async test
    assert os.listdir(tmp_path) == ["not ours"]  # noqa: PTH208


async def test_a_lock_that_somebody_holds_outlives_other_fetches(tmp_path: Path) -> None:
    async with alone(tmp_path / "held.lock", 0.0):
        async with alone(tmp_path / "other.lock", 0.0):
            pass
        with pytest.raises(HeldElsewhere):
            async with alone(tmp_path / "held.lock", 0.0):
                pytest.fail("two have it")
