"""Control groups: what is written into them, who is killed, and which are ours to use."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.limits import MIB, Limits
from stages.execute.sandbox import cgroup_scope, cgroup_v2
from stages.execute.sandbox.cgroup import counter, join, kill_all, quota_microseconds
from stages.execute.sandbox.cgroup_scope import SystemdScopes
from stages.execute.sandbox.cgroup_v2 import LEAF, GroupV2, HierarchyV2, delegated_hierarchy
from stages.execute.sandbox.hierarchies import own_group

LIMITS = Limits(memory_bytes=64 * MIB, processes=10, cpus=0.5, wall_seconds=1)


def tree(folder: Path, controllers: str = "cpuset cpu io memory pids") -> Path:
    """Files as the kernel shows them in a group; a plain folder, in which nothing enforces anything."""
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").touch()
    (folder / "cgroup.type").write_text("domain")
    (folder / "cgroup.procs").touch()
    return folder


def test_version_2_limits_are_written_in_the_kernels_units(tmp_path: Path) -> None:
    (tmp_path / "memory.swap.max").touch()
    GroupV2(tmp_path).limit(LIMITS)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "12",
        "cpu.max": "50000 100000",
    }


def test_version_2_counters_are_read_in_our_units(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 3\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    group = GroupV2(tmp_path)
    assert (group.oom_kills(), group.cpu_seconds(), group.peak_memory_bytes()) == (3, 1.5, None)
    assert group.reached_memory_limit()
    (tmp_path / "memory.events").write_text("low 0\nmax 7\noom 0\noom_kill 3\n")
    assert not group.reached_memory_limit(), "the limit above it was"
    (tmp_path / "memory.peak").write_text("4096\n")
    assert group.peak_memory_bytes() == 4096


def test_a_delegated_group_hands_its_controllers_down_and_its_processes_to_a_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_v2, "_is_delegated", lambda group: True)
    own = tree(tmp_path / "system.slice/millrace.service")
    (own / "cgroup.procs").write_text("41\n")
    (own / LEAF).mkdir()
    found = delegated_hierarchy(tmp_path, own)
    assert found == HierarchyV2(own)
    assert (own / LEAF / "cgroup.procs").read_text() == "41"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_a_process_already_in_the_leaf_uses_the_group_above(tmp_path: Path) -> None:
    own = tree(tmp_path / "system.slice/millrace.service")
    assert delegated_hierarchy(tmp_path, own / LEAF) == HierarchyV2(own)


def test_a_group_nobody_delegated_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_v2, "_is_delegated", lambda group: False)
    own = tree(tmp_path / "user.slice/session-1.scope")
    assert delegated_hierarchy(tmp_path, own) is None
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_a_delegated_group_without_the_memory_controller_is_not_used(tmp_path: Path) -> None:
    own = tree(tmp_path / "x", controllers="cpu pids")
    assert delegated_hierarchy(tmp_path, own / LEAF) is None


def test_the_own_group_is_the_version_2_line() -> None:
    assert own_group("9:pids:/a\n0::/system.slice/millrace.service\n") == "/system.slice/millrace.service"
    assert own_group("9:pids:/a\n") == "/"


@pytest.mark.skipif(
    not Path("/sys/fs/cgroup/unified/cgroup.procs").exists() or os.geteuid() != 0,
    reason="needs root and a cgroup v2 tree beside v1: any kernel booted with hybrid control groups",
)
def test_version_2_groups_are_joined_killed_and_swept_by_the_real_kernel() -> None:
    """No controllers are there on a hybrid machine: joining, killing, finding orphans and removing are real."""
    hierarchy = HierarchyV2(Path("/sys/fs/cgroup/unified"))
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    orphan = GroupV2(hierarchy.base / f"millrace-{dead.pid}-1-1")
    orphan.folder.mkdir()
    command = orphan.wrap(["/bin/sh", "-c", "read go; sleep 9 & echo ready; wait"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as left:
        assert left.stdin is not None
        assert left.stdout is not None
        orphan.take(left.pid)
        left.stdin.write(b"go\n")
        assert left.stdout.readline() == b"ready\n"
        assert hierarchy.sweep() == [orphan.folder.name]
        assert left.wait(5) == -9
    assert not orphan.folder.exists()


def test_joining_stops_if_a_group_is_gone(tmp_path: Path) -> None:
    ended = subprocess.run(join([tmp_path / "gone"], ["/bin/echo", "ran"]), capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (97, b"")


def test_joining_passes_the_command_on_unchanged(tmp_path: Path) -> None:
    odd = tmp_path / "a 'quoted' $name"
    odd.mkdir()
    command = ["/usr/bin/printf", "%s|", "a b", "$x", "'"]
    ended = subprocess.run(join([odd, odd], command), capture_output=True, text=True, check=True)
    assert ended.stdout == "a b|$x|'|"


def test_everything_listed_is_killed_and_nothing_else() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as victim, subprocess.Popen(["/bin/sleep", "60"]) as bystander:
        assert kill_all(lambda: {victim.pid} if victim.poll() is None else set())
        assert victim.wait(5) == -9
        assert bystander.poll() is None
        bystander.kill()


def test_what_will_not_die_is_told() -> None:
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    assert not kill_all(lambda: {dead.pid}, within_seconds=0.05)


@given(st.floats(0.0001, 500, allow_nan=False))
def test_a_quota_is_never_below_what_the_kernel_takes(cpus: float) -> None:
    quota = quota_microseconds(cpus)
    assert quota >= 1000
    assert abs(quota - cpus * 100_000) <= 1000


def test_a_counter_that_is_not_there_is_zero(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("oom 1\noom_kill_disable 4\n")
    assert counter(tmp_path / "events", "oom_kill") == 0


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemdScopes:
    """A `systemd-run` that writes its arguments down and runs the command without any scope."""
    monkeypatch.setattr(cgroup_scope, "_ANCHOR_GRACE_SECONDS", 0)
    run, ctl, scope = tmp_path / "systemd-run", tmp_path / "systemctl", tmp_path / "scope"
    arguments = tmp_path / "arguments"
    run.write_text(f'#!/bin/sh\necho "$@" > {arguments}\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    ctl.write_text("#!/bin/sh\necho /scope\n")
    for script in (run, ctl):
        script.chmod(stat.S_IRWXU)
    scope.mkdir()
    (scope / "memory.events").write_text("oom_kill 2\n")
    return SystemdScopes(tmp_path, str(run), str(ctl), tmp_path)


def test_a_scope_has_the_limits_and_is_kept_until_it_is_read(stand_in: SystemdScopes, tmp_path: Path) -> None:
    group = stand_in.create("millrace-1-2-3", LIMITS)
    with subprocess.Popen(group.wrap(["/bin/echo", "ran"]), stdout=subprocess.PIPE, env={}) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"ran\n"
    asked = (tmp_path / "arguments").read_text()
    assert all(
        part in asked
        for part in ("--user", "--unit=millrace-1-2-3.scope", f"MemoryMax={64 * MIB}", "TasksMax=13", "CPUQuota=50%")
    )
    assert group.oom_kills() == 2
    (tmp_path / "scope/cgroup.kill").touch()
    group.close()
    assert (tmp_path / "scope/cgroup.kill").read_text() == "1", "the anchor would keep the scope"


def test_a_scope_that_is_gone_too_early_was_not_ended_for_its_own_limit(
    stand_in: SystemdScopes, tmp_path: Path
) -> None:
    (tmp_path / "scope/memory.events").unlink()
    (tmp_path / "scope").rmdir()
    group = stand_in.create("millrace-1-2-3", LIMITS)
    assert (group.oom_kills(), group.cpu_seconds(), group.peak_memory_bytes()) == (1, None, None)
    assert not group.reached_memory_limit()
    group.close()


def test_systemd_is_asked_to_let_a_scope_be_unless_it_does_not_know_how(
    stand_in: SystemdScopes, tmp_path: Path
) -> None:
    """systemd 253 began to end scopes that reach their own limit; earlier ones refuse the property."""
    assert "--property=OOMPolicy=continue" in stand_in.create("millrace-1-2-3", LIMITS).wrap([])
    (tmp_path / "systemd-run").write_text("#!/bin/sh\necho 'Unknown assignment: OOMPolicy=continue' >&2\nexit 1\n")
    assert not stand_in.works()
    assert "--property=OOMPolicy=continue" not in stand_in.create("millrace-1-2-3", LIMITS).wrap([])


def test_a_systemd_that_does_not_answer_is_not_used(stand_in: SystemdScopes, tmp_path: Path) -> None:
    for name in ("systemd-run", "systemctl"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    assert not stand_in.works()
