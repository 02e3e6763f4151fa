"""bubblewrap's box with one defence taken away: only for proving that a case notices.

The product has no switch for any of this. What is changed is how the command line is built, in this process, while one
test runs. Each change takes away one defence and leaves the others in place, and each is only used with cases that
cannot do harm behind the others: nothing that kills is ever run without its own process namespace, nothing that
connects to an address is run in the machine's own network, and every bomb ends by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from millrace.limits import MIB, Limits
from stages.execute.sandbox import bubblewrap, launch, start, supervisor
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.cgroup import Group, Hierarchy

Weaken: TypeAlias = Callable[[pytest.MonkeyPatch, BubblewrapSandbox], BubblewrapSandbox]
Edit: TypeAlias = Callable[[list[str]], list[str]]

ALLOW_EVERYTHING = b"\x06\x00\x00\x00\x00\x00\xff\x7f"
"""One BPF instruction: return SECCOMP_RET_ALLOW."""


def found(arguments: Sequence[str], wanted: Sequence[str]) -> int:
    """Where `wanted` stands in `arguments`; fails if it does not: then the control would take nothing away."""
    places = [i for i in range(len(arguments)) if list(arguments[i : i + len(wanted)]) == list(wanted)]
    assert places, f"{wanted} is not in {arguments}"
    return places[0]


def instead(*wanted: str, of: Sequence[str]) -> Edit:
    """Put `wanted` in the place of the arguments `of`; nothing at all, to take them away."""

    def edit(arguments: list[str]) -> list[str]:
        at = found(arguments, of)
        return [*arguments[:at], *wanted, *arguments[at + len(of) :]]

    return edit


def in_the_box(*edits: Edit) -> Weaken:
    """Change what bubblewrap is told."""

    def weaken(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
        build = bubblewrap.box_arguments

        def built(*given: Any) -> bytes:
            arguments = build(*given).decode().rstrip("\0").split("\0")
            for edit in edits:
                arguments = edit(arguments)
            return "".join(f"{argument}\0" for argument in arguments).encode()

        patch.setattr(bubblewrap, "box_arguments", built)
        return sandbox

    return weaken


def on_the_way(edit: Edit) -> Weaken:
    """Change the steps that lead to bubblewrap."""

    def weaken(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
        build = bubblewrap.launch_command
        patch.setattr(bubblewrap, "launch_command", lambda *given, **named: edit(build(*given, **named)))
        return sandbox

    return weaken


def without(*arguments: str) -> Weaken:
    """Leave out one of bubblewrap's arguments."""
    return in_the_box(instead(of=arguments))


def shown_too(*arguments: str) -> Weaken:
    """Show the job something more."""
    return in_the_box(instead(*arguments, "--remount-ro", "/proc", of=("--remount-ro", "/proc")))


def both(first: Weaken, second: Weaken) -> Weaken:
    """Two changes, where two defences stand behind each other."""
    return lambda patch, sandbox: second(patch, first(patch, sandbox))


def no_filter(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    """Every system call is allowed."""
    return replace(sandbox, seccomp_program=ALLOW_EVERYTHING)


def our_environment(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    """bubblewrap is started with all of the worker's variables."""
    patch.setattr(launch, "CLEAN_ENVIRONMENT", os.environ)
    return sandbox


with_capabilities = in_the_box(instead("--cap-add", "ALL", of=("--cap-drop", "ALL")))


class Looser:
    """Control groups with other limits than asked for; everything in them is still killed at the end."""

    def __init__(self, hierarchy: Hierarchy, changes: dict[str, object]) -> None:
        self._hierarchy = hierarchy
        self._changes = changes
        self.name = hierarchy.name

    def create(self, name: str, limits: Limits) -> Group:
        return self._hierarchy.create(name, limits.model_copy(update=self._changes))

    def sweep(self) -> list[str]:
        return self._hierarchy.sweep()

    def weaknesses(self) -> list[str]:
        return self._hierarchy.weaknesses()


def group_with(**changes: object) -> Weaken:
    """The control group allows more; never so much that the machine would notice."""

    def weaken(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
        assert sandbox.hierarchy is not None
        return replace(sandbox, hierarchy=Looser(sandbox.hierarchy, changes))

    return weaken


def supervised_with(*, later_seconds: float = 0, output_times: int = 1) -> Weaken:
    """The supervisor waits longer, or keeps more output."""

    class Lenient(supervisor.Supervisor):
        def __init__(self, process: Any, fd: int, group: Any, limits: Limits, deadline: float, cancel: Any) -> None:
            more = limits.model_copy(update={"output_bytes": limits.output_bytes * output_times})
            super().__init__(process, fd, group, more, deadline + later_seconds, cancel)

    def weaken(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
        patch.setattr(start, "Supervisor", Lenient)
        return sandbox

    return weaken


def patient(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    """The supervisor waits for the end of output long after the program's end."""
    patch.setattr(supervisor, "GRACE_SECONDS", 2.5)
    return sandbox


def roomy_tmp(arguments: list[str]) -> list[str]:
    """/tmp with room for 256 MiB."""
    at = found(arguments, ("--tmpfs", "/tmp"))
    assert arguments[at - 2] == "--size"
    return [*arguments[: at - 1], str(256 * MIB), *arguments[at:]]


def shared_tmp(folder: Path) -> Weaken:
    """A folder of the host for /tmp, which the job cannot write."""

    def edit(arguments: list[str]) -> list[str]:
        at = found(arguments, ("--tmpfs", "/tmp"))
        return [*arguments[: at - 2], "--ro-bind", str(folder), "/tmp", *arguments[at + 2 :]]

    return in_the_box(edit)


def resource_limit(name: str, value: str) -> Weaken:
    """Another value for one of prlimit's limits."""

    def edit(command: list[str]) -> list[str]:
        (at,) = (i for i, part in enumerate(command) if part.startswith(f"--{name}="))
        return [*command[:at], f"--{name}={value}", *command[at + 1 :]]

    return on_the_way(edit)


def no_resource_limits(command: list[str]) -> list[str]:
    """Without the step that sets them."""
    at = next(i for i, part in enumerate(command) if part.endswith("/prlimit"))
    return command[:at] + command[command.index("--", at) + 1 :]


def open_file_too(command: list[str]) -> list[str]:
    """With a ninth descriptor that leads to /dev/null."""
    return ["/bin/sh", "-c", 'exec 9</dev/null; exec "$@"', "sh", *command]


def words_on_the_command_line(command: list[str]) -> list[str]:
    """With a host path among bubblewrap's own arguments instead of in the file it reads them from."""
    at = next(i for i, part in enumerate(command) if part.endswith("/bwrap"))
    return [*command[: at + 1], "--setenv", "SHOWN", "/root", *command[at + 1 :]]


def unisolated_interpreter(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    """Python without its isolating flags."""
    patch.setattr(bubblewrap, "job_command", lambda interpreter: [str(interpreter.executable), "/job/main.py"])
    return sandbox


def unsealed_input(patch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    """Standard input is a file that can be changed."""
    sealed = start.sealed_file

    def made(name: str, content: bytes) -> int:
        if name != "stdin":
            return sealed(name, content)
        fd = os.memfd_create(name)
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    patch.setattr(start, "sealed_file", made)
    return sandbox
