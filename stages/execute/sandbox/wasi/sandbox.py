"""The `wasi` back end: each program in a WASM module of its own, each module in a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from millrace.errors import MillraceError
from millrace.limits import Usage
from stages.execute.sandbox.interface import Check, Outcome, Spec, Status
from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.start import Start
from stages.execute.sandbox.supervisor import Ending, Supervisor
from stages.execute.sandbox.verdict import Observation, judge
from stages.execute.sandbox.wasi import engine, leftovers, selftest
from stages.execute.sandbox.wasi.compiled import CompiledModule, engine_command, wasmtime_version
from stages.execute.sandbox.wasi.program import python_arguments
from stages.execute.sandbox.wasi.usage import Used, used_by


@dataclass(frozen=True)
class WasiSandbox:
    """Runs each program under wasmtime, in a process that is given nothing and can be killed.

    `slots` is None where we may not become another user, `seccomp_program` where there is no libseccomp to make a
    filter. `plain_module` is for a module that is no Python: it takes no program, only its input.
    """

    compiled: CompiledModule
    slots: Slots | None
    seccomp_program: bytes | None
    plain_module: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """As receipts show it."""
        return f"wasi: {self.compiled.build.name}, wasmtime {wasmtime_version()}"

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        """Run one program and wait for its end. A fault of ours is an Outcome too; see `Sandbox.run`."""
        try:
            return self._run(spec, cancel)
        except (OSError, subprocess.SubprocessError, MillraceError) as error:
            return Outcome(Status.sandbox_error, None, backend=self.name, detail=f"{type(error).__name__}: {error}")

    def self_test(self) -> list[Check]:
        """Try the promises out on this machine."""
        return selftest.check(self)

    def sweep(self) -> list[str]:
        """End engines whose worker is gone, and remove what it left half written."""
        return [*leftovers.end_orphans(), *self.compiled.sweep()]

    def describe(self) -> list[str]:
        """What is weaker, and slower, than in the default sandbox."""
        weak = list(_ALWAYS)
        if self.seccomp_program is None:
            weak.append("without libseccomp2, a program that broke out of wasmtime could make any system call")
        if self.slots is None:
            weak.append("engines run under the worker's own user id, without a right to open files where seccomp works")
        return weak

    def fingerprint(self) -> str:
        """Everything that the self-test's verdict depends on, except the running kernel."""
        changed = Path(engine.__file__).stat().st_mtime_ns
        bpf = hashlib.sha256(self.seccomp_program or b"").hexdigest()
        return repr((self.compiled.key, self.slots, bpf, changed, os.geteuid()))

    def _run(self, spec: Spec, cancel: threading.Event | None) -> Outcome:
        module = self.compiled.descriptor()
        with self.slots.acquire() if self.slots else nullcontext() as uid:
            began = time.monotonic()
            with self._start(spec, uid, module, began, cancel) as supervisor:
                ending = supervisor.watch()
                wall_seconds = time.monotonic() - began
                used = used_by(supervisor.pid)
                dead = supervisor.end()
                usage = _usage(supervisor, used, wall_seconds)
                return _verdict(spec, supervisor, ending, usage, self.name, dead=dead)

    def _start(
        self, spec: Spec, uid: int | None, module: int, began: float, cancel: threading.Event | None
    ) -> Supervisor:
        """Start the engine."""
        with Start() as start:
            bpf = start.hand("filter", self.seccomp_program) if self.seccomp_program else None
            start.lend(module)
            task = {
                "act": "run",
                "module": module,
                "report": start.report,
                "filter": bpf,
                "user": uid,
                "arguments": ["program"] if self.plain_module else python_arguments(spec.program),
                "memory_bytes": spec.limits.memory_bytes,
                # Without a control group the share of the processor is not limited, but what the share comes to is.
                "cpu_seconds": spec.limits.wall_seconds * min(1.0, spec.limits.cpus),
                "wall_seconds": spec.limits.wall_seconds,
            }
            stdin = spec.stdin if self.plain_module else spec.program + spec.stdin
            start.process(engine_command(new_name(), task), {}, stdin)
            return start.watch(None, spec.limits, began + spec.limits.wall_seconds, cancel)


_ALWAYS = (
    "programs need three to eleven times the processor time that they need in the default sandbox, hashing even more",
    "programs have the standard library without threads, processes, sockets, ctypes and writable files, not even /tmp",
    "a program out of memory sees MemoryError instead of ending as `oom`; its share of the processor is not limited, "
    "only its sum",
)


def _usage(supervisor: Supervisor, used: Used, wall_seconds: float) -> Usage:
    """What the engine reported of itself, else what the kernel knew of it before it was killed."""
    cpu, peak = supervisor.reported("cpu-microseconds"), supervisor.reported("peak-bytes")
    return Usage(
        wall_seconds=round(wall_seconds, 6),
        cpu_seconds=used.cpu_seconds if cpu is None else cpu / 1e6,
        peak_memory_bytes=used.peak_memory_bytes if peak is None else peak,
        stdout_bytes=len(supervisor.stdout.kept),
        stderr_bytes=len(supervisor.stderr.kept),
    )


def _verdict(spec: Spec, supervisor: Supervisor, ending: Ending, usage: Usage, backend: str, *, dead: bool) -> Outcome:
    trap, started = supervisor.reported("trap"), supervisor.reported("started")
    seen = Observation(
        ending=ending,
        exit_code=supervisor.exit_code,
        oom_kills=supervisor.reported("oom-kill") or 0,
        dead=dead,
        stdout=supervisor.stdout,
        stderr=supervisor.stderr,
        usage=usage,
        out_of_cpu_time=trap is not None and engine.TRAPS[trap][0] == "INTERRUPT",
    )
    outcome = judge(seen, spec.limits, backend)
    if outcome.status is Status.signal and trap is not None:
        what = engine.TRAPS[trap][0].lower().replace("_", " ")
        return replace(outcome, detail=f"{outcome.detail}: {what}")
    if outcome.status is Status.sandbox_error and ending is Ending.exited and dead and started:
        # What stands in stderr may be the program's own words.
        return replace(outcome, detail="the engine ended without saying how the program did")
    return outcome
