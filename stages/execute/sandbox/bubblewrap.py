"""The default sandbox: bubblewrap's namespaces, a seccomp allow-list, a control group and a user of its own."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from millrace.limits import Limits, Usage
from stages.execute.sandbox import selftest
from stages.execute.sandbox.arguments import Descriptors, box_arguments, job_command
from stages.execute.sandbox.cgroup import Group, Hierarchy
from stages.execute.sandbox.interface import Check, Outcome, Spec, Status
from stages.execute.sandbox.interpreter import Interpreter
from stages.execute.sandbox.launch import inside_command, launch_command
from stages.execute.sandbox.libraries import gathered, sweep_copies
from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.start import Start
from stages.execute.sandbox.supervisor import Ending, Supervisor
from stages.execute.sandbox.tools import Tools
from stages.execute.sandbox.verdict import Observation, judge


@dataclass(frozen=True)
class BubblewrapSandbox:
    """Runs each program in a box of its own.

    `hierarchy` is None where the machine offers no control groups, `slots` is None for an ordinary user, who cannot
    become anybody else. `seccomp_program` is the filter in BPF, `environment` what the first step is started with,
    `cache` the folder for copies of libraries.
    """

    tools: Tools
    interpreter: Interpreter
    hierarchy: Hierarchy | None
    slots: Slots | None
    seccomp_program: bytes
    environment: dict[str, str]
    cache: Path

    @property
    def name(self) -> str:
        """As receipts show it."""
        return f"bubblewrap {self.tools.bwrap_version}, Python {self.interpreter.version}"

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        """Run one program and wait for its end. A fault of ours is an Outcome too; see `Sandbox.run`."""
        try:
            return self._run(spec, cancel)
        except (OSError, subprocess.SubprocessError) as error:
            return Outcome(Status.sandbox_error, None, backend=self.name, detail=f"{type(error).__name__}: {error}")

    def self_test(self) -> list[Check]:
        """Try the promises out on this machine."""
        # An interpreter outside /usr has a top folder of its own.
        shown = {destination.parts[1] for _, destination in self.interpreter.binds}
        expected = selftest.Expected(root=selftest.ROOT | shown)
        return selftest.check(self, grouped=self.hierarchy is not None, expected=expected)

    def sweep(self) -> list[str]:
        """Remove the control groups of workers that are gone, and copies of libraries that nobody uses any more."""
        return [*(self.hierarchy.sweep() if self.hierarchy else []), *sweep_copies(self.cache)]

    def describe(self) -> list[str]:
        """What is weaker here than as root with control groups."""
        weak = list(self.hierarchy.weaknesses()) if self.hierarchy else list(_WITHOUT_GROUPS)
        return weak if self.slots else [*weak, _ONE_USER]

    def fingerprint(self) -> str:
        """Everything that the self-test's verdict depends on, except the running kernel."""
        where = self.hierarchy.name if self.hierarchy else "no control groups"
        bpf = hashlib.sha256(self.seccomp_program).hexdigest()
        binary = self.tools.bwrap.stat()
        return repr((self.tools, binary.st_mtime_ns, self.interpreter, self.slots, where, bpf, os.geteuid()))

    def _run(self, spec: Spec, cancel: threading.Event | None) -> Outcome:
        # Nobody but who comes next removes the groups of a killed worker. On our own time, not on the job's.
        self.sweep()
        began = time.monotonic()
        with self._slot() as uid, self._group(spec.limits) as group:
            with self._start(spec, uid, group, began, cancel) as supervisor:
                ending = supervisor.watch()
                wall_seconds = time.monotonic() - began
                dead = supervisor.end()
                observation = Observation(
                    ending=ending,
                    exit_code=supervisor.exit_code,
                    oom_kills=group.oom_kills() if group and ending is Ending.exited else 0,
                    reached_memory_limit=group is None or group.reached_memory_limit(),
                    dead=dead,
                    stdout=supervisor.stdout,
                    stderr=supervisor.stderr,
                    usage=Usage(
                        wall_seconds=round(wall_seconds, 6),
                        cpu_seconds=group.cpu_seconds() if group else None,
                        peak_memory_bytes=group.peak_memory_bytes() if group else None,
                        stdout_bytes=len(supervisor.stdout.kept),
                        stderr_bytes=len(supervisor.stderr.kept),
                    ),
                )
            return judge(observation, spec.limits, self.name)

    def _start(
        self, spec: Spec, uid: int | None, group: Group | None, began: float, cancel: threading.Event | None
    ) -> Supervisor:
        """Start the box, which waits for its arguments until it is in its group."""
        limits, grouped = spec.limits, group is not None
        with Start() as start:
            fds = Descriptors(
                program=start.hand("program", spec.program),
                seccomp=start.hand("filter", self.seccomp_program),
                report=start.report,
            )
            gate, arguments = start.connect()
            inside = inside_command(self.tools, limits, job_command(self.interpreter), grouped=grouped)
            box = [str(self.tools.bwrap), "--args", str(gate), *inside]
            command = launch_command(self.tools, limits, uid, box, grouped=grouped)
            process = start.process(group.wrap(command) if group else command, self.environment, spec.stdin or None)
            if group is not None:
                group.take(process.pid)
            arguments.sendall(box_arguments(gathered(self.interpreter, self.cache), limits, fds))
            # Closing is not enough: a child forked meanwhile holds a copy of the descriptor.
            arguments.shutdown(socket.SHUT_WR)
            return start.watch(group, limits, began + limits.wall_seconds, cancel)

    @contextmanager
    def _slot(self) -> Iterator[int | None]:
        if self.slots is None:
            yield None
            return
        with self.slots.acquire() as uid:
            yield uid

    @contextmanager
    def _group(self, limits: Limits) -> Iterator[Group | None]:
        if self.hierarchy is None:
            yield None
            return
        group = self.hierarchy.create(new_name(), limits)
        try:
            yield group
        finally:
            group.kill()
            group.close()


_WITHOUT_GROUPS = (
    "memory is limited for each process (address space), not for all of a job's processes together, and a job that "
    "runs out of it sees MemoryError: there is no `oom` verdict",
    "a job's share of the CPU is not limited, only the CPU time of each of its processes",
    "CPU time and peak memory are not measured",
    "the number of files in /tmp is limited by nothing but the kernel: empty ones take about 1 KB of its memory each",
)
_ONE_USER = "jobs run under the worker's own user id: only the namespaces keep them from your processes and files"
