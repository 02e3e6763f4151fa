"""Version 2 under the kernel's rules: in a tree that keeps them, and on the kernel's own tree as far as it goes.

Machines that boot with version 1 have a tree of version 2 without controllers beside it. What needs no controller
(joining, killing, measuring CPU time, removing) is proved there with real boxes; limits are proved to be written where
the rules allow it, not to be enforced.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cgroup_tree import ALL, CgroupPath, mount, service
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.limits import MIB, Limits
from millrace.settings import Settings
from stages.execute.sandbox import Spec, Status, cgroup_v2, missing_tools, open_sandbox
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.cgroup_v2 import LEAF, GroupV2, HierarchyV2, delegated_hierarchy
from stages.execute.sandbox.owner import new_name, pid_namespace
from stages.execute.sandbox.probes import GUARD

LIMITS = Limits(memory_bytes=64 * MIB + 1, processes=10, cpus=0.5, wall_seconds=1)
REAL_TREE = Path("/sys/fs/cgroup/unified")
MISSING = missing_tools()


@pytest.fixture(autouse=True)
def delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_v2, "_is_delegated", lambda group: True)


@pytest.fixture
def root(tmp_path: Path) -> CgroupPath:
    return mount(tmp_path / "cgroup")


def divided(root: CgroupPath, *pids: int) -> HierarchyV2:
    found = delegated_hierarchy(root, service(root, "millrace.service", *pids))
    assert found is not None
    return found


def test_a_service_is_divided_although_it_holds_processes(root: CgroupPath) -> None:
    """The rule that makes it hard: a group with processes may not hand controllers down."""
    hierarchy = divided(root, 41, 42)
    assert (hierarchy.base / "cgroup.procs").read_text() == ""
    assert (hierarchy.base / LEAF / "cgroup.procs").read_text().split() == ["41", "42"]
    assert set((hierarchy.base / "cgroup.subtree_control").read_text().split()) == {"memory", "pids", "cpu"}


def test_a_second_process_of_the_worker_finds_the_division_and_uses_it(root: CgroupPath) -> None:
    first = divided(root, 41)
    assert delegated_hierarchy(root, first.base / LEAF) == first


def test_a_group_that_got_a_process_meanwhile_is_not_used(root: CgroupPath) -> None:
    group = service(root, "millrace.service", 41)
    (group / LEAF).mkdir()
    assert delegated_hierarchy(root, group / LEAF) is None, "EBUSY is an answer, not an error"


def test_without_a_controller_there_is_no_hierarchy(root: CgroupPath) -> None:
    group = service(root, "millrace.service", controllers=ALL.replace("memory", ""))
    assert delegated_hierarchy(root, group) is None


def test_a_group_has_the_limits_as_the_kernel_keeps_them(root: CgroupPath) -> None:
    hierarchy = divided(root)
    group = hierarchy.create(new_name(), LIMITS)
    kept = {
        name: (group.folder / name).read_text().strip()
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    }
    assert kept == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "12",
        "cpu.max": "50000 100000",
    }
    assert (group.oom_kills(), group.cpu_seconds(), group.peak_memory_bytes()) == (0, 0.0, 0)
    group.close()
    assert not group.folder.exists()


@settings(deadline=None, max_examples=30)
@given(cpus=st.floats(0.0001, 4096), memory=st.integers(1, 2**50), processes=st.integers(1, 4_000_000))
def test_no_limits_of_ours_are_refused(
    tmp_path_factory: pytest.TempPathFactory, cpus: float, memory: int, processes: int
) -> None:
    hierarchy = divided(mount(tmp_path_factory.mktemp("tree") / "cgroup"))
    group = hierarchy.create(new_name(), Limits(cpus=cpus, memory_bytes=memory, processes=processes))
    group.close()


def test_a_group_that_cannot_be_limited_is_removed_again(root: CgroupPath) -> None:
    """Nothing was handed down here: the files for the limits do not exist."""
    undivided = HierarchyV2(service(root, "millrace.service", controllers="cpu"))
    with pytest.raises(PermissionError):
        undivided.create("millrace-1-1-1", LIMITS)
    assert not (undivided.base / "millrace-1-1-1").exists()


def test_everything_in_a_group_is_killed_at_once_and_the_group_removed(root: CgroupPath) -> None:
    group = divided(root).create(new_name(), LIMITS)
    with subprocess.Popen(["/bin/sleep", "60"]) as one, subprocess.Popen(["/bin/sleep", "60"]) as other:
        for process in (one, other):
            (group.folder / "cgroup.procs").write_text(str(process.pid))
        assert group.kill()
        assert {one.wait(5), other.wait(5)} == {-9}
    group.close()
    assert not group.folder.exists()


def test_only_groups_of_the_dead_are_swept(root: CgroupPath) -> None:
    hierarchy = divided(root, os.getpid())
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    orphan = f"millrace-{dead.pid}-1-1-{pid_namespace()}"
    foreign = f"millrace-{dead.pid}-1-1-{pid_namespace() + 1}"
    alive = new_name()
    for name in (orphan, foreign, alive):
        hierarchy.create(name, LIMITS)
    assert hierarchy.sweep() == [orphan]
    left = {path.name for path in hierarchy.base.iterdir() if path.is_dir()}
    assert left == {foreign, alive, LEAF}


def test_a_group_that_stays_busy_does_not_stop_the_sweeping(
    root: CgroupPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hierarchy = divided(root)
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    names = [f"millrace-{dead.pid}-1-{number}-{pid_namespace()}" for number in (1, 2)]
    for name in names:
        hierarchy.create(name, LIMITS)
    (hierarchy.base / names[0] / "below").mkdir()
    monkeypatch.setattr(cgroup_v2, "remove_folder", lambda folder: folder.rmdir())
    assert hierarchy.sweep() == [names[1]]
    assert "stays behind" in caplog.text


@dataclass(frozen=True)
class _Unlimited(GroupV2):
    """A group of the real tree, which has no controllers: no limits, no count of kills for want of memory."""

    def limit(self, limits: Limits) -> None:
        return None

    def oom_kills(self) -> int:
        return 0

    def reached_memory_limit(self) -> bool:
        return False


@dataclass(frozen=True)
class _RealTree(HierarchyV2):
    kind: type[_Unlimited] = _Unlimited

    def create(self, name: str, limits: Limits) -> GroupV2:
        group = self.kind(self.base / name)
        group.folder.mkdir()
        return group


class _Slow(_Unlimited):
    """A kernel that takes its time to move a process."""

    def take(self, pid: int) -> None:
        time.sleep(0.3)
        super().take(pid)


class _Refusing(_Unlimited):
    """A group that somebody else may not move processes into."""

    def take(self, pid: int) -> None:
        raise PermissionError(errno.EACCES, f"process {pid} may not be moved")


def real_boxes(kind: type[_Unlimited] = _Unlimited) -> BubblewrapSandbox:
    """The sandbox of this machine with groups of the real tree."""
    sandbox = open_sandbox(Settings(_env_file=None))
    assert isinstance(sandbox, BubblewrapSandbox)
    return replace(sandbox, hierarchy=_RealTree(REAL_TREE, kind))


def real_tree(test: Callable[[], None]) -> Callable[[], None]:
    """Marks a test that needs boxes and the kernel's own tree."""
    for mark in (
        pytest.mark.sandbox,
        pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3"),
        pytest.mark.skipif(
            not (REAL_TREE / "cgroup.procs").exists() or os.geteuid() != 0,
            reason="needs root and a cgroup v2 tree beside v1: any kernel booted with hybrid control groups",
        ),
    ):
        test = mark(test)
    return test


@real_tree
def test_a_box_waits_until_it_is_in_its_group() -> None:
    """It is moved from outside while it starts; before that, nothing of the job may run, or be counted elsewhere."""
    program = "import time\nwhile time.process_time() < 0.2: pass\nprint(open('/proc/self/cgroup').read())"
    outcome = real_boxes(_Slow).run(Spec((GUARD + program).encode(), limits=Limits(wall_seconds=20)))
    assert b"0::/\n" in outcome.stdout, "the namespace of groups was made inside, and hides ours"
    assert 0.2 <= (outcome.usage.cpu_seconds or 0) < 2


@real_tree
def test_a_box_that_cannot_be_moved_is_our_fault_and_gone() -> None:
    outcome = real_boxes(_Refusing).run(Spec(b"print('ran')"))
    assert (outcome.status, outcome.stdout) == (Status.sandbox_error, b"")
    pid = outcome.detail.partition("process ")[2].split()[0]
    assert not Path("/proc", pid).exists()
    assert not list(REAL_TREE.glob(f"millrace-{os.getpid()}-*"))


@real_tree
def test_boxes_run_in_groups_of_the_real_tree_and_leave_none() -> None:
    sandbox = real_boxes()
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done')"
    left = "import os, time\nfor _ in range(5):\n    if os.fork() == 0: os.setsid(); time.sleep(60)\nprint('left')"
    loop = "import os\nos.fork()\nwhile True: pass"
    programs = {busy: 20.0, left: 20.0, loop: 0.6}
    outcomes = [
        sandbox.run(Spec((GUARD + program).encode(), limits=Limits(wall_seconds=seconds, processes=20)))
        for program, seconds in programs.items()
    ]
    assert [outcome.status for outcome in outcomes] == [Status.ok, Status.ok, Status.timeout]
    assert 0.2 <= (outcomes[0].usage.cpu_seconds or 0) < 2, "from the kernel's own cpu.stat"
    assert not list(REAL_TREE.glob(f"millrace-{os.getpid()}-*"))
