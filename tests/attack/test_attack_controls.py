"""Negative controls: a case whose defence is missing must fail. A case that cannot fail proves nothing.

There are none for endings without a defence (`hello`, `exit_code`), none where the kernel itself has a third defence
behind the two of DEPTH (`sys_mount`, `sched_hog`, `net_raw_packet`), and none where the host would be at stake:
`kill_init` and `kill_all` are never run without a process namespace, `fork_bomb` never without a limit (its limit is
proved by `fork_bomb_count`), `pickle_result` is never unpickled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack_backends import BUBBLEWRAP
from attack_case import Difference, limits
from attack_corpus import BY_NAME
from attack_weakened import (
    Weaken,
    both,
    group_with,
    in_the_box,
    instead,
    no_filter,
    no_resource_limits,
    on_the_way,
    open_file_too,
    our_environment,
    patient,
    resource_limit,
    roomy_tmp,
    shared_tmp,
    shown_too,
    supervised_with,
    unisolated_interpreter,
    unsealed_input,
    with_capabilities,
    without,
    words_on_the_command_line,
)

from millrace.limits import MIB
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox

UNAVAILABLE = BUBBLEWRAP.unavailable()
pytestmark = [pytest.mark.sandbox, pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)]

LOOSE_MEMORY = group_with(memory_bytes=1024 * MIB)
LIBRARY = f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
SHARED_NETWORK = without("--unshare-net")
LATE = supervised_with(later_seconds=2.6)
CHATTY = supervised_with(output_times=20)
ROOMY_FILES = resource_limit("fsize", str(256 * MIB))
ROOMY_TMP = in_the_box(roomy_tmp)
NO_HOSTNAME = in_the_box(instead(of=("--unshare-uts",)), instead(of=("--hostname", "sandbox")))

CONTROLS: list[tuple[str, str, Weaken]] = [
    # case, what is missing, how
    *((name, "the filter", no_filter) for name in ("netlink", "memfd_bomb", "clone3", "clone_into_namespace")),
    *((name, "the filter", no_filter) for name in ("other_memory", "sys_kernel_surface", "sys_tiocsti", "int80_x32")),
    ("proc1_environ", "a clean environment", our_environment),
    ("env_secrets", "a clean environment, twice", both(our_environment, without("--clearenv"))),
    ("net_localhost_host_service", "a network of its own", SHARED_NETWORK),
    ("abstract_unix", "a network of its own", SHARED_NETWORK),
    ("setuid_binary", "no capabilities", with_capabilities),
    ("own_processes_only", "processes of its own", without("--unshare-pid")),
    ("kill_outside", "processes of its own", without("--unshare-pid")),
    *(("own_namespaces", f"its own {name}", without(f"--unshare-{name}")) for name in ("cgroup", "ipc", "net", "pid")),
    ("own_namespaces", "its own uts", NO_HOSTNAME),
    ("cgroup_escape", "its own view of control groups", without("--unshare-cgroup")),
    ("shm_bomb", "a read-only /dev", without("--remount-ro", "/dev")),
    ("write_outside", "a read-only /dev", without("--remount-ro", "/dev")),
    ("write_outside", "a read-only root", without("--remount-ro", "/")),
    ("proc_oom_adj", "a read-only /proc", without("--remount-ro", "/proc")),
    ("devices", "only the usual devices", shown_too("--dir", "/dev/kvm")),
    ("read_secrets", "only its own files", shown_too("--dir", "/srv")),
    ("root_by_way_of_proc", "only its own files", shown_too("--dir", "/etc")),
    ("pycache_poison", "a read-only library", shown_too("--tmpfs", f"{LIBRARY}/__pycache__")),
    ("inherited_fds", "closed descriptors", on_the_way(open_file_too)),
    ("proc_cmdline", "arguments by way of a file", on_the_way(words_on_the_command_line)),
    ("site_import_hijack", "an isolated interpreter", unisolated_interpreter),
    ("stdin_is_sealed", "a sealed file", unsealed_input),
    ("mem_bomb", "the memory limit", LOOSE_MEMORY),
    ("mem_bomb_children", "the memory limit", LOOSE_MEMORY),
    ("mem_bomb_tmpfs", "the memory limit", LOOSE_MEMORY),
    ("zip_bomb", "the memory limit", LOOSE_MEMORY),
    ("fork_bomb_count", "the process limit", group_with(processes=300)),
    ("thread_bomb", "the process limit", group_with(processes=600)),
    ("huge_single_file", "both limits on files", both(ROOMY_FILES, ROOMY_TMP)),
    ("fd_exhaustion", "the limit on open files", resource_limit("nofile", "8192")),
    ("prlimit_raise", "resource limits", on_the_way(no_resource_limits)),
    ("sleep_forever", "the time limit", LATE),
    ("close_fds_hang", "the time limit", LATE),
    ("stdout_flood", "the output limit", CHATTY),
    ("stderr_flood", "the output limit", CHATTY),
    ("daemon_grandchild", "the end of patience, and of its processes", both(patient, without("--unshare-pid"))),
]

DEPTH: list[tuple[str, str, Weaken]] = [
    ("sys_mount", "the filter", no_filter),
    ("sys_mount", "no capabilities", with_capabilities),
    ("sys_userns", "the filter", no_filter),
    ("sys_userns", "the ban on user namespaces", without("--disable-userns")),
    ("sched_hog", "the filter", no_filter),
    ("sched_hog", "no capabilities", with_capabilities),
    ("env_secrets", "a clean environment", our_environment),
    ("env_secrets", "the cleared environment", without("--clearenv")),
    ("huge_single_file", "the limit on a file", ROOMY_FILES),
    ("huge_single_file", "the limit on /tmp", ROOMY_TMP),
    ("net_raw_packet", "no capabilities", with_capabilities),
    ("daemon_grandchild", "the end of patience", patient),
    ("daemon_grandchild", "processes of its own", without("--unshare-pid")),
]
"""Where a second defence stands behind the first, each is enough alone."""


def named(controls: list[tuple[str, str, Weaken]]) -> list[object]:
    return [pytest.param(case, weaken, id=f"{case} without {missing}") for case, missing, weaken in controls]


@pytest.fixture(scope="module")
def whole() -> BubblewrapSandbox:
    sandbox = BUBBLEWRAP.open()
    assert isinstance(sandbox, BubblewrapSandbox)
    return sandbox


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


def verdict(name: str, sandbox: BubblewrapSandbox, difference: Difference | None = None) -> str:
    return BY_NAME[name].broken(sandbox, difference)


@pytest.mark.parametrize(("name", "weaken"), named(CONTROLS))
def test_without_its_defence_a_case_fails(
    name: str, weaken: Weaken, whole: BubblewrapSandbox, patch: pytest.MonkeyPatch
) -> None:
    said = verdict(name, weaken(patch, whole))
    assert said
    assert "sandbox_error" not in said, "the box must have started"
    assert "only runs in the sandbox" not in said


@pytest.mark.parametrize(("name", "weaken"), named(DEPTH))
def test_one_of_two_defences_is_enough(
    name: str, weaken: Weaken, whole: BubblewrapSandbox, patch: pytest.MonkeyPatch
) -> None:
    assert not verdict(name, weaken(patch, whole))


def test_without_the_filter_a_family_that_is_there_already_can_be_opened(whole: BubblewrapSandbox) -> None:
    """Only netlink, of all families: asking for others would make the kernel load modules."""
    program = BY_NAME["sys_af_exotic"].program
    one = Difference("netlink only", program=program.replace("range(64)", "(16,)"))
    assert "range(64)" in program
    assert not verdict("sys_af_exotic", whole, one)
    assert "BROKEN ([16],)" in verdict("sys_af_exotic", replaced(whole), one)


@pytest.mark.skipif(
    "VSOCK" not in Path("/proc/net/protocols").read_text(), reason="needs a kernel that has AF_VSOCK loaded already"
)
def test_without_the_filter_the_hypervisors_sockets_can_be_opened(whole: BubblewrapSandbox) -> None:
    assert "BROKEN" in verdict("vsock", replaced(whole))


def test_without_the_filter_the_first_process_can_be_traced(whole: BubblewrapSandbox) -> None:
    """It stops, and the run hangs: so the time is short."""
    short = Difference("it hangs", limits=limits(wall_seconds=1))
    assert not verdict("sys_ptrace", whole, short)
    assert verdict("sys_ptrace", replaced(whole), short)


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"),
    reason="needs a kernel that writes core files itself: here they would be handed to a program of the host",
)
def test_without_the_limit_on_core_files_a_crash_leaves_one(
    whole: BubblewrapSandbox, patch: pytest.MonkeyPatch
) -> None:
    assert "BROKEN" in verdict("abort", resource_limit("core", "unlimited")(patch, whole))


def test_without_its_quota_a_program_uses_more_of_the_cpu(whole: BubblewrapSandbox, patch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep the share small as well: three attempts."""
    loose = group_with(cpus=2.0)(patch, whole)
    assert any("BROKEN" in verdict("cpu_quota", loose) for _ in range(3))


def test_behind_the_time_limit_a_process_has_a_limit_on_cpu_time(
    whole: BubblewrapSandbox, patch: pytest.MonkeyPatch
) -> None:
    """Should the worker be stopped or swamped, the kernel ends the loop."""
    by_the_kernel = Difference("by the kernel", judge=lambda outcome: "CPU time" in outcome.detail)
    assert not verdict("infinite_loop", supervised_with(later_seconds=60)(patch, whole), by_the_kernel)


def test_a_private_tmp_is_not_the_machines(whole: BubblewrapSandbox, patch: pytest.MonkeyPatch) -> None:
    folder = Path("/tmp", f"millrace-control-{id(whole)}")
    folder.mkdir(mode=0o755)
    try:
        (folder / "of-the-host").touch()
        assert "of-the-host" in verdict("tmp_is_private", shared_tmp(folder)(patch, whole))
    finally:
        (folder / "of-the-host").unlink()
        folder.rmdir()


def replaced(sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    return no_filter(pytest.MonkeyPatch(), sandbox)
