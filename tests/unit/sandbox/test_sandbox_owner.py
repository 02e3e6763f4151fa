"""Names that tell the living from the dead: a wrong answer would kill somebody's running job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stages.execute.sandbox.owner import is_orphan, is_own, new_name, pid_namespace


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_names_are_never_used_twice_and_their_owner_lives() -> None:
    names = [new_name() for _ in range(100)]
    assert len(set(names)) == 100
    assert not any(map(is_orphan, names))


def test_a_dead_owners_name_is_an_orphan_and_a_living_ones_is_not() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        name = f"millrace-{process.pid}-{start_time(process.pid)}-1"
        assert not is_orphan(name)
        process.kill()
        process.wait()
    assert is_orphan(name)


def test_a_zombie_owns_nothing() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        name = f"millrace-{process.pid}-{start_time(process.pid)}-1"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_orphan(name)


def test_a_recycled_pid_does_not_protect_the_dead_owners_things() -> None:
    assert is_orphan(f"millrace-{os.getpid()}-{start_time(os.getpid()) - 1}-1")


def test_a_name_from_another_pid_namespace_is_never_an_orphan() -> None:
    """A worker in a container that shares the machine's control groups: its pid is nobody's here, and it lives."""
    assert is_orphan(f"millrace-{os.getpid()}-1-1-{pid_namespace()}")
    assert not is_orphan(f"millrace-{os.getpid()}-1-1-{pid_namespace() + 1}")


def test_what_is_gone_or_belongs_to_somebody_else_is_not_our_own(tmp_path: Path) -> None:
    assert is_own(tmp_path)
    assert not is_own(tmp_path / "gone")
    assert is_own(Path("/proc/1")) == (os.geteuid() == Path("/proc/1").stat().st_uid)


@pytest.mark.parametrize(
    "name",
    ["millrace", "millrace-worker", "millrace-1", "millrace-1-2", "millrace-x-1-1", "other-999999-1-1"],
)
def test_other_names_are_never_orphans(name: str) -> None:
    assert not is_orphan(name)
