"""Solving in a child process: what it gives, and what its ends mean for the job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from millrace.errors import Declined, Permanent, Transient
from millrace.settings import ComputeChainSettings, Settings
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.device_lock import DeviceBusy, hold_device
from stages.execute.matmul.stage import ensure_solvable, execute_challenge
from stages.execute.matmul.verify import verify

ADDRESS = "cpc1worker"
BLOCK = "5a" * 32


def settings_with(folder: Path, **own: Any) -> Settings:
    section = ComputeChainSettings(**{"device": "cpu", "sampled_rows": 4, **own})
    return Settings(data_dir=folder, computechain=section)


async def test_a_challenge_is_solved_in_a_process_of_its_own(tmp_path: Path) -> None:
    solution = await execute_challenge(BLOCK, ADDRESS, 64, "matmul-i32-v1", settings=settings_with(tmp_path))
    assert verify(solution).valid
    assert solution.challenge == Challenge(block_hash=BLOCK, worker_address=ADDRESS, n=64)
    assert (solution.device.kind, len(solution.rows)) == ("cpu", 4)
    assert solution.device.name
    assert set(solution.timings) == {"generate", "multiply and hash", "tree and rows"}
    assert (solution.peak_memory_bytes or 0) > 1 << 20


async def test_the_child_knows_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only computes. What it has of our environment is read while it runs."""
    monkeypatch.setenv("MILLRACE_IPFS__PINATA_JWT", "a-secret-of-ours")
    monkeypatch.setenv("PINATA_JWT", "a-secret-of-ours")
    solving = asyncio.ensure_future(
        execute_challenge(BLOCK, ADDRESS, 6_000, "matmul-i32-v1", settings=settings_with(tmp_path))
    )
    child = await child_of_ours()
    assert "a-secret-of-ours" not in " ".join(child.environ().values())
    assert child.environ()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    solving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await solving
    assert not child.is_running(), "a cancelled task leaves nothing behind"


async def test_a_killed_child_is_tried_again_and_named(tmp_path: Path) -> None:
    solving = asyncio.ensure_future(
        execute_challenge(BLOCK, ADDRESS, 6_000, "matmul-i32-v1", settings=settings_with(tmp_path))
    )
    (await child_of_ours()).kill()
    with pytest.raises(Transient, match="killed by signal 9"):
        await solving


async def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="not solved within") as caught:
        await execute_challenge(
            BLOCK, ADDRESS, 20_000, "matmul-i32-v1", settings=settings_with(tmp_path, solve_seconds=0.4)
        )
    assert "MILLRACE_COMPUTECHAIN__SOLVE_SECONDS" in caught.value.hint
    assert not solving_children()


async def test_a_device_that_is_not_there_is_declined_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Declined) as caught:
        await execute_challenge(BLOCK, ADDRESS, 64, "matmul-i32-v1", settings=settings_with(tmp_path, device="cuda:7"))
    assert caught.value.reason == "unsupported"
    assert "make setup GPU=1" in caught.value.hint


async def test_the_public_sample_is_declined_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(Declined, match="matmul-f64-cupy needs a card"):
        await execute_challenge(BLOCK, ADDRESS, 64, "matmul-f64-cupy", settings=settings_with(tmp_path))


@pytest.mark.parametrize(("block", "n"), [("xyz", 4), (BLOCK, 0), (BLOCK, 70_000)])
async def test_what_is_no_challenge_is_refused_before_anything_starts(tmp_path: Path, block: str, n: int) -> None:
    with pytest.raises(Permanent, match="this is no challenge"):
        await execute_challenge(block, ADDRESS, n, "matmul-i32-v1", settings=settings_with(tmp_path))


def test_what_cannot_be_tried_here_is_declined_at_once() -> None:
    with pytest.raises(Declined, match="not between"):
        ensure_solvable(65_536, "matmul-i32-v1", "cpu")
    with pytest.raises(Declined, match="needs CuPy"):
        ensure_solvable(64, "matmul-i32-v1", "cuda:0")
    ensure_solvable(64, "matmul-i32-v1", "auto")


def test_a_device_is_held_by_one_at_a_time_and_freed_by_the_system(tmp_path: Path) -> None:
    waited: list[float] = []
    with hold_device(tmp_path, "0000:3B:00.0", patience_seconds=0):
        with pytest.raises(DeviceBusy), hold_device(tmp_path, "0000:3B:00.0", patience_seconds=0):
            pass
        with hold_device(tmp_path, "0000:86:00.0", patience_seconds=0):
            pass
        times = iter([0.0, 0.0, 1.0, 2.0])
        with (
            pytest.raises(DeviceBusy),
            hold_device(tmp_path, "0000:3B:00.0", patience_seconds=1.5, clock=lambda: next(times), sleep=waited.append),
        ):
            pass
    assert len(waited) == 2
    if (pid := os.fork()) == 0:
        with hold_device(tmp_path, "0000:3B:00.0", patience_seconds=0):
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with hold_device(tmp_path, "0000:3B:00.0", patience_seconds=0):
        pass


def solving_children() -> list[psutil.Process]:
    """Those that run the solving program by now, not the ones that ended and wait to be collected."""
    program = os.path.realpath(sys.executable)
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "matmul.child" in " ".join(child.cmdline()) and child.exe() == program:
                found.append(child)
    return found


async def child_of_ours() -> psutil.Process:
    """The solving child, once it runs its own program."""
    for _ in range(500):
        if children := await asyncio.to_thread(solving_children):
            return children[0]
        await asyncio.sleep(0.01)
    raise AssertionError("no child was started")
