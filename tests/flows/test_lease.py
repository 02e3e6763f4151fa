from __future__ import annotations

import errno
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

from flows.lease import Holder, end_holder, forget, hold_lease, holder_of, living, without_holder

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


def test_a_lease_is_held_although_the_disk_has_no_room_to_say_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flow run that began while the disk was full failed at its first line, and used up an attempt of its job."""
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with hold_lease(tmp_path, "run", flow="watch"):
        assert holder_of(tmp_path, "run") is Holder.alive
        (lease,) = living(tmp_path)
        assert (lease.flow_run_id, lease.flow, lease.since) == ("run", "", None)
        assert not end_holder(tmp_path, "run"), "nobody is ended whom the lease does not name"
    assert list(tmp_path.iterdir()) == []


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


def test_a_process_that_holds_a_lease_says_what_it_is_for_as_soon_as_it_knows(tmp_path: Path) -> None:
    """The lease begins before the flow's first line: a process killed before that was nobody's, for ever."""
    with hold_lease(tmp_path, "run"):
        with hold_lease(tmp_path, "run", flow="watch", about="a chain"):
            (lease,) = living(tmp_path)
            assert (lease.flow, lease.about) == ("watch", "a chain")
        assert holder_of(tmp_path, "run") is Holder.alive
    assert list(tmp_path.iterdir()) == []


def test_a_process_says_that_its_flow_is_over_while_it_still_holds_the_lease(tmp_path: Path) -> None:
    """A stopping worker asked a flow run to end that had just done so, did not listen any more, and crashed of it."""
    with hold_lease(tmp_path, "run"):
        with hold_lease(tmp_path, "run", flow="watch"):
            assert [lease.at_work for lease in living(tmp_path)] == [True]
        assert [(lease.flow, lease.at_work) for lease in living(tmp_path)] == [("watch", False)]
        with hold_lease(tmp_path, "run", flow="watch"):
            assert [lease.at_work for lease in living(tmp_path)] == [True]


def test_a_program_that_was_handed_a_lease_says_what_it_is_for(tmp_path: Path) -> None:
    """Of a flow run that starts Python anew nobody knew the flow: a worker waited for it, and a drain without end."""
    begin = (
        "import os, sys; from pathlib import Path; from flows.lease import hand_on_leases, hold_lease\n"
        "with hold_lease(Path(sys.argv[1]), 'run'):\n"
        "    hand_on_leases()\n"
        "    os.execv(sys.executable, [sys.executable, '-c', *sys.argv[2:], sys.argv[1]])\n"
    )
    go_on = (
        "import sys; from pathlib import Path; from flows.lease import hold_lease\n"
        "with hold_lease(Path(sys.argv[1]), 'run', flow='watch', about='a chain'):\n"
        "    print('begun', flush=True); sys.stdin.readline()\n"
        "print('over', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", begin, str(tmp_path), go_on]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            for said, at_work in ((b"begun\n", True), (b"over\n", False)):
                assert process.stdout.readline() == said
                (lease,) = living(tmp_path)
                assert (lease.flow, lease.about, lease.at_work) == ("watch", "a chain", at_work)
                process.stdin.write(b"\n")
                process.stdin.flush()
        finally:
            process.kill()


def test_a_lease_outlives_the_program_that_its_process_was(tmp_path: Path) -> None:
    become = (
        "import os, sys; from pathlib import Path; from flows.lease import hand_on_leases, hold_lease\n"
        "with hold_lease(Path(sys.argv[1]), 'run'):\n"
        "    hand_on_leases()\n"
        "    os.execv('/bin/sleep', ['sleep', '60'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", become, str(tmp_path)])
    try:
        command = Path(f"/proc/{process.pid}/comm")
        while command.read_text() != "sleep\n":
            assert process.poll() is None
            time.sleep(0.01)
        assert holder_of(tmp_path, "run") is Holder.alive
    finally:
        process.kill()
        process.wait()
    assert holder_of(tmp_path, "run") is Holder.gone


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


def test_the_lease_of_the_dead_is_forgotten_and_that_of_the_living_is_not(tmp_path: Path) -> None:
    (tmp_path / "dead.lease").write_text("{}")
    with hold_lease(tmp_path, "living"):
        assert without_holder(tmp_path) == ["dead"]
        assert (forget(tmp_path, "dead"), forget(tmp_path, "living"), forget(tmp_path, "nobody")) == (
            True,
            False,
            False,
        )
        assert holder_of(tmp_path, "living") is Holder.alive
    assert list(tmp_path.iterdir()) == []
