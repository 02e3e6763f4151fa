"""bubblewrap's arguments: what the box looks like from inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.interpreter import Interpreter

PROGRAM = "/job/main.py"
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 the box's own /tmp
INSIDE_ID = "1000"


@dataclass(frozen=True)
class Descriptors:
    """Open files that bubblewrap is handed: the program's source, the filter, and where it reports to."""

    program: int
    seccomp: int
    report: int


def box_arguments(interpreter: Interpreter, limits: Limits, fds: Descriptors) -> bytes:
    """The arguments as `bwrap --args FD` reads them: so they do not show in /proc/1/cmdline inside the box."""
    arguments = [
        *_isolation(),
        *_identity(),
        *_files(interpreter, limits.scratch_bytes, fds.program),
        *("--chdir", "/tmp", "--cap-drop", "ALL"),  # noqa: S108
        *("--seccomp", str(fds.seccomp), "--json-status-fd", str(fds.report)),
    ]
    return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)


def job_command(interpreter: Interpreter) -> list[str]:
    """How the program is run: isolated from the environment, without `site`, writing no bytecode."""
    return [str(interpreter.executable), "-I", "-S", "-B", PROGRAM]


def _isolation() -> Iterator[str]:
    for namespace in ("user", "ipc", "pid", "net", "uts", "cgroup"):
        yield f"--unshare-{namespace}"
    yield from ("--disable-userns", "--die-with-parent", "--new-session")


def _identity() -> Iterator[str]:
    yield from ("--uid", INSIDE_ID, "--gid", INSIDE_ID, "--hostname", "sandbox", "--clearenv")
    for name, value in ENVIRONMENT.items():
        yield from ("--setenv", name, value)


def _files(interpreter: Interpreter, scratch_bytes: int, program: int) -> Iterator[str]:
    for source, destination in interpreter.binds:
        yield from ("--ro-bind", str(source), str(destination))
    for folder in interpreter.hidden:
        yield from _covered(folder)
    for target, link in interpreter.links:
        yield from ("--symlink", target, link)
    yield from ("--proc", "/proc", "--dev", "/dev", "--size", str(scratch_bytes), "--tmpfs", "/tmp")  # noqa: S108
    yield from ("--perms", "0444", "--ro-bind-data", str(program), PROGRAM)
    # /proc would let the job take back its rank as the first victim of the machine, and write to the memory of the
    # box's process 1. /dev is a tmpfs without a size: writable, it would be memory that no limit of ours names.
    yield from ("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/")


def _covered(folder: Path) -> Iterator[str]:
    yield from ("--size", "4096", "--tmpfs", str(folder), "--remount-ro", str(folder))
