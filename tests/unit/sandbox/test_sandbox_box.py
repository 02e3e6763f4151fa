"""What the box is made of: arguments, launch command, interpreter and filter."""

from __future__ import annotations

import math
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from millrace.errors import Declined, DeclineReason
from millrace.limits import Limits
from stages.execute.sandbox.arguments import Descriptors, box_arguments
from stages.execute.sandbox.interpreter import Interpreter, examine_interpreter, find_interpreter
from stages.execute.sandbox.launch import inside_command, launch_command
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.tools import Tools, missing_tools

TOOLS = Tools(Path("/b/bwrap"), "0.8.0", Path("/b/sh"), Path("/b/env"), Path("/b/prlimit"), Path("/b/setpriv"))
PYTHON = Interpreter(
    Path("/opt/py/bin/python3.12"),
    "3.12.1",
    ((Path("/opt/py/lib/python3.12"), Path("/opt/py/lib/python3.12")),),
    (Path("/opt/py/lib/python3.12/site-packages"),),
    (("usr/lib", "/lib"),),
)
SYSTEM = find_interpreter(None)


def arguments() -> list[str]:
    return box_arguments(PYTHON, Limits(scratch_bytes=4096), Descriptors(7, 8, 9)).decode().split("\0")


def position(*wanted: str) -> int:
    found = arguments()
    return next(i for i in range(len(found)) if found[i : i + len(wanted)] == list(wanted))


def test_every_namespace_is_new_and_none_can_be_made_inside() -> None:
    assert {f"--unshare-{name}" for name in ("user", "ipc", "pid", "net", "uts", "cgroup")} <= set(arguments())
    assert {"--disable-userns", "--die-with-parent", "--new-session", "--clearenv"} <= set(arguments())


def test_nothing_is_bound_for_writing() -> None:
    assert not [name for name in arguments() if name.endswith("bind") and name != "--ro-bind"]


def test_the_root_dev_and_proc_become_read_only_after_everything_is_in_place() -> None:
    last = position("--ro-bind-data", "7", "/job/main.py")
    assert last < position("--remount-ro", "/proc")
    assert last < position("--remount-ro", "/dev") < position("--remount-ro", "/")


def test_installed_packages_are_covered_after_the_library_is_shown() -> None:
    library, packages = "/opt/py/lib/python3.12", "/opt/py/lib/python3.12/site-packages"
    assert position("--ro-bind", library, library) < position("--tmpfs", packages) < position("--remount-ro", packages)


def test_the_private_folder_has_the_size_of_the_limits() -> None:
    assert position("--size", "4096", "--tmpfs", "/tmp")


def test_root_becomes_the_slots_user_without_any_privilege() -> None:
    command = launch_command(TOOLS, Limits(), 61_003, ["BOX"], grouped=True)
    wanted = ["--reuid=61003", "--regid=61003", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    assert set(wanted) <= set(command)
    assert command[-2:] == ["PATH=/usr/bin:/bin", "BOX"]
    assert not [part for part in command if part.startswith("--as=")]


def test_without_groups_address_space_and_processes_are_limited_instead() -> None:
    within = Limits(memory_bytes=1000, processes=5)
    assert "--as=1000" in launch_command(TOOLS, within, None, ["BOX"], grouped=False)
    assert inside_command(TOOLS, within, ["python"], grouped=False) == ["/b/prlimit", "--nproc=6", "--", "python"]
    assert inside_command(TOOLS, within, ["python"], grouped=True) == ["python"]


def test_cpu_time_is_enough_for_all_cores_for_the_whole_time() -> None:
    assert "--cpu=42:43" in launch_command(TOOLS, Limits(wall_seconds=10.1, cpus=4), None, [], grouped=True)


@pytest.mark.parametrize("name", ["wall_seconds", "cpus"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, -1.0])
def test_a_limit_that_is_none_cannot_be_asked_for(name: str, value: float) -> None:
    """An infinite time made the run end in an OverflowError of ours."""
    with pytest.raises(ValidationError):
        Limits.model_validate({name: value})


def test_a_sealed_file_cannot_be_changed_by_whoever_holds_it() -> None:
    fd = sealed_file("x", b"content")
    try:
        assert os.read(fd, 99) == b"content"
        for change in (lambda: os.write(fd, b"y"), lambda: os.ftruncate(fd, 0)):
            with pytest.raises(OSError, match="not permitted"):
                change()
    finally:
        os.close(fd)


@pytest.mark.skipif(SYSTEM is None, reason="needs a python3: apt install python3")
def test_the_systems_interpreter_shows_only_its_own_files() -> None:
    assert SYSTEM is not None
    found = examine_interpreter(SYSTEM)
    shown = [str(destination) for _, destination in found.binds]
    assert str(found.executable) in shown
    assert any("/libc.so" in path or "/ld-" in path for path in shown)
    assert not {"/", "/usr", "/usr/bin", "/usr/lib", "/lib", "/etc", "/usr/local", "/usr/local/lib"} & set(shown)
    assert all(source.exists() for source, _ in found.binds)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: jobs run as other users only then")
def test_an_interpreter_that_jobs_could_not_read_is_declined_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    private = tmp_path / "python3"
    private.symlink_to(Path(sys.executable).resolve())
    if all(part.stat().st_mode & 0o001 for part in private.resolve().parents):
        pytest.skip("needs an interpreter in a private folder; the tests' own lies in a public one")
    with pytest.raises(Declined, match="cannot be read by unprivileged users") as caught:
        examine_interpreter(private)
    assert caught.value.reason is DeclineReason.no_sandbox
    assert "MILLRACE_SANDBOX__PYTHON" in caught.value.hint


def test_an_interpreter_that_does_not_start_is_declined(tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/false\n")
    broken.chmod(0o755)
    with pytest.raises(Declined, match="does not start"):
        examine_interpreter(broken)


@pytest.mark.skipif(SYSTEM is None, reason="needs a python3: apt install python3")
def test_an_interpreter_that_the_boxs_own_folders_would_cover_is_declined() -> None:
    assert SYSTEM is not None
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copy(SYSTEM.resolve(), f"{folder}/python3")
        with pytest.raises(Declined, match="folders of its own"):
            examine_interpreter(Path(folder, "python3"))


def test_a_configured_interpreter_that_is_not_there_is_missing(tmp_path: Path) -> None:
    assert (f"the interpreter {tmp_path / 'python3'}", "") in missing_tools(tmp_path / "python3")


@pytest.mark.skipif(("libseccomp.so.2", "libseccomp2") in missing_tools(), reason="apt install libseccomp2")
def test_the_filter_is_a_bpf_program_that_refuses_by_default() -> None:
    from stages.execute.sandbox.seccomp import allow_list_program

    program = allow_list_program()
    instructions = list(struct.iter_unpack("HBBI", program))
    returned = {value for code, _, _, value in instructions if code == 0x06}
    assert {0x7FFF_0000, 0x0005_0001, 0x0005_0026} <= returned, "allow, EPERM and ENOSYS"
    assert returned & {0x0000_0000, 0x8000_0000}, "another architecture's calls are killed"
