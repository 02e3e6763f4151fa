from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from flows.lease import Holder, end_holder, hold_lease, holder_of

HOLD = """
import sys, time
from pathlib import Path
from flows.lease import hold_lease
with hold_lease(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lease_tells_a_living_process_from_a_killed_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert holder_of(tmp_path, "run") is Holder.alive
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert holder_of(tmp_path, "run") is Holder.gone


def test_a_lease_that_ended_well_leaves_nothing(tmp_path: Path) -> None:
    with hold_lease(tmp_path, "run"):
        assert holder_of(tmp_path, "run") is Holder.alive
    assert holder_of(tmp_path, "run") is Holder.elsewhere
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_neither_waits_nor_takes_the_lease_away(tmp_path: Path) -> None:
    with hold_lease(tmp_path, "run"):
        with hold_lease(tmp_path, "run"):
            pass
        assert holder_of(tmp_path, "run") is Holder.alive


def test_a_lease_is_taken_though_somebody_asks_for_its_holder_all_the_time(tmp_path: Path) -> None:
    """Who asks holds the lock for a moment: a process that began just then went on without a lease, and was started
    a second time while it lived."""
    (tmp_path / "run.lease").write_text("stale")
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            holder_of(tmp_path, "run")

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(300):
            with hold_lease(tmp_path, "run"):
                assert holder_of(tmp_path, "run") is Holder.alive
            (tmp_path / "run.lease").write_text("stale")
    finally:
        ended.set()
        for thread in asking:
            thread.join()


def test_a_lease_that_its_former_holder_took_away_is_not_mistaken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the former holder unlinked it, locked after: a lease that nobody could find."""
    path = tmp_path / "run.lease"
    path.write_text("the former holder's")
    lock = fcntl.flock

    def unlinked_meanwhile(lease: IO[str], operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        lock(lease, operation)

    monkeypatch.setattr(fcntl, "flock", unlinked_meanwhile)
    with hold_lease(tmp_path, "run"):
        assert holder_of(tmp_path, "run") is Holder.alive


def test_a_lease_left_by_a_killed_process_can_be_taken_again(tmp_path: Path) -> None:
    (tmp_path / "run.lease").write_text("stale")
    assert holder_of(tmp_path, "run") is Holder.gone
    with hold_lease(tmp_path, "run"):
        assert holder_of(tmp_path, "run") is Holder.alive


def test_only_who_has_the_lease_open_is_ended(tmp_path: Path) -> None:
    """A pid is a number: another container of the same host name has the same ones."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    ) as bystander:
        assert bystander.stdout is not None
        bystander.stdout.readline()
        told = {"host": socket.gethostname(), "pid": bystander.pid, "since": time.time() + 60}
        (tmp_path / "run.lease").write_text(json.dumps(told))
        assert not end_holder(tmp_path, "run")
        with (tmp_path / "run.lease").open() as lease:
            fcntl.flock(lease, fcntl.LOCK_EX)
            assert not end_holder(tmp_path, "run")
        assert bystander.poll() is None
        bystander.kill()
