"""The runtime that ships: wasmtime, each execution in a child that was forked ahead of it."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent
from millrace.limits import MIB
from millrace.text import printable
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.supervisor import Ending
from stages.execute.sandbox.wasi import engine
from stages.execute.sandbox.wasi.compiled import wasmtime_version
from stages.execute.wasm.abi import detect_abi, objection
from stages.execute.wasm.cache import ModuleCache, cache_key
from stages.execute.wasm.interface import Abi, Call, Cancelled, RuntimeFault, Status, WasmExecution
from stages.execute.wasm.nursery import Nursery
from stages.execute.wasm.sections import BadModule, Caps, Facts, TooLarge, examine
from stages.execute.wasm.watch import Seen

_HINT = "run it again; if that fails as well, `millrace doctor` finds out what is wrong"

_KNOWN_MODULES = 128

_CRASHES = frozenset(
    -number for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGTRAP, signal.SIGBUS)
)
"""How an engine ends that gives up. It may not send itself SIGABRT behind its filter, and crashes instead."""


@dataclass(frozen=True)
class Compilation:
    """What compiling one module may take.

    Its CPU time is the module's own doing; on a busy machine that is a part of `wall_seconds`, which are ours.
    """

    cpu_seconds: int = 60
    wall_seconds: float = 300.0
    memory_bytes: int = 2 << 30
    output_bytes: int = 256 * MIB


class Refused(Exception):
    """The module is not run; that is the job's result."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class _Report(BaseModel):
    """What a child says, which is believed about its own job only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    detail: str = ""
    code: int | None = None
    trap: str | None = None
    fuel: int | None = None
    peak_memory_bytes: int | None = None
    microseconds: int | None = None


@dataclass
class WasmtimeRuntime:
    """See `Runtime`. `patience_seconds` is how long a job waits for a free child."""

    nursery: Nursery
    cache: ModuleCache
    caps: Caps
    compilation: Compilation
    patience_seconds: float = 300.0
    _known: dict[str, Facts] = field(default_factory=dict, repr=False)
    _refused: dict[str, tuple[Status, str]] = field(default_factory=dict, repr=False)
    """Modules that took a compiler everything it may have, and would again."""

    @property
    def name(self) -> str:
        """As receipts show it."""
        return f"wasmtime {wasmtime_version()}"

    def warm_up(self) -> None:
        """Start what the first execution would otherwise wait for. Raises RuntimeFault if that fails."""
        self.nursery.warm_up()

    def execute(self, call: Call, cancel: threading.Event | None = None) -> WasmExecution:
        """Run one module; see `Runtime.execute`."""
        _require_sound(call.environment)
        digest = hashlib.sha256(call.module).hexdigest()
        known: dict[str, Any] = {"module_sha256": digest, "runtime": self.name, "limits": call.limits}
        try:
            facts = self._facts(digest, call.module)
            known["abi"] = abi = detect_abi(facts, call.target)
            if (reason := objection(facts, abi)) is not None:
                raise Refused(*reason)
            began = time.monotonic()
            component = abi is Abi.wasi_p2
            key = cache_key(digest, component=component)
            if (refusal := self._refused.get(key)) is not None:
                raise Refused(*refusal)
            module, cached = self.cache.descriptor(
                key, lambda: self._compile(key, call.module, component, cancel), lambda: _stop_if(cancel)
            )
            known["compile_milliseconds"] = None if cached else round((time.monotonic() - began) * 1000, 3)
        except BadModule as error:
            return WasmExecution(status=Status.bad_module, detail=str(error), **known)
        except TooLarge as error:
            return WasmExecution(status=Status.too_large, detail=str(error), **known)
        except Refused as error:
            return WasmExecution(status=error.status, detail=error.detail, **known)
        try:
            return WasmExecution(**known, **self._run(call, abi, module, cancel))
        finally:
            os.close(module)

    def close(self) -> None:
        """End the forker with its children, and let go of the modules in memory."""
        self.nursery.close()
        self.cache.close()

    def _facts(self, digest: str, module: bytes) -> Facts:
        """What the module says of itself, remembered: to read it is most of what a warm execution costs."""
        if (found := self._known.get(digest)) is not None:
            return found
        facts = examine(module, self.caps)
        if len(self._known) >= _KNOWN_MODULES:
            self._known.clear()
        self._known[digest] = facts
        return facts

    def _compile(self, key: str, module: bytes, component: bool, cancel: threading.Event | None) -> bytes:
        own = self.compilation
        task = {
            "act": "compile",
            "component": component,
            "cpu_seconds": own.cpu_seconds,
            "process_bytes": own.memory_bytes,
        }
        source = sealed_file("wasm", module)
        try:
            with self.nursery.run(task, source, b"", stdout_bytes=own.output_bytes, stderr_bytes=65_536) as running:
                seen = running.watch(own.wall_seconds, self.patience_seconds, cancel)
        finally:
            os.close(source)
        try:
            return _compiled(seen, own)
        except Refused as refusal:
            if len(self._refused) >= _KNOWN_MODULES:
                self._refused.clear()
            self._refused[key] = (refusal.status, refusal.detail)
            raise

    def _run(self, call: Call, abi: Abi, module: int, cancel: threading.Event | None) -> dict[str, Any]:
        limits = call.limits
        task = {
            "act": "run",
            "abi": abi,
            "environment": [[name, value] for name, value in call.environment.items()],
            "cpu_seconds": math.ceil(limits.wall_seconds) + 10,
            # Beside the guest's memory: the engine, and one copy of what the guest has that a host call may make.
            "process_bytes": 2 * limits.memory_bytes + os.fstat(module).st_size + engine.HOST_BYTES,
            **limits.model_dump(),
        }
        caps = {"stdout_bytes": limits.output_bytes, "stderr_bytes": limits.stderr_bytes}
        with self.nursery.run(task, module, call.stdin, **caps) as running:
            seen = running.watch(limits.wall_seconds, self.patience_seconds, cancel)
        return {"output": seen.stdout, "stderr": seen.stderr, **_judged(seen, call)}


def _stop_if(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled")


def _compiled(seen: Seen, own: Compilation) -> bytes:
    """The machine code. Raises Refused if the module is not one, or takes too much."""
    if seen.ending is Ending.cancelled:
        raise Cancelled("cancelled")
    if seen.ending is Ending.timeout:
        hint = "run fewer jobs at once on this worker"
        raise RuntimeFault(f"a module was not compiled within {own.wall_seconds:g} s", hint=hint)
    if seen.exit_code == -signal.SIGXCPU:
        raise Refused(Status.too_large, f"compiling it takes more than {own.cpu_seconds} s")
    if seen.ending is Ending.output_limit and len(seen.stdout) >= own.output_bytes:
        raise Refused(Status.too_large, f"it compiles to more than {own.output_bytes} bytes")
    report = _read(seen)
    if report is None and _ran_out_of_memory(seen):
        raise Refused(Status.too_large, f"compiling it takes more than {own.memory_bytes} bytes of memory")
    if report is None and seen.exit_code in _CRASHES:
        raise Refused(Status.bad_module, "the compiler crashed on it")
    if report is None:
        raise RuntimeFault(f"compiling a module failed: {_fault(seen)}", hint=_HINT)
    if report.status is not Status.ok:
        raise Refused(Status.bad_module, report.detail)
    return seen.stdout


def _judged(seen: Seen, call: Call) -> dict[str, Any]:
    """Status, detail and what was used, from what the child said and how it ended."""
    limits = call.limits
    used: dict[str, Any] = {"milliseconds": round(seen.wall_seconds * 1000, 3)}
    if seen.ending is Ending.cancelled:
        raise Cancelled("cancelled")
    if seen.ending is Ending.output_limit:
        detail = f"ended for writing more than {limits.output_bytes} bytes, or {limits.stderr_bytes} to standard error"
        return {"status": Status.output_limit, "detail": detail, **used}
    if seen.ending is Ending.timeout or seen.exit_code == -signal.SIGXCPU:
        # It slept inside a call of the host: neither fuel nor the epoch ends that.
        used["peak_memory_bytes"] = seen.used.peak_memory_bytes
        return {"status": Status.timeout, "detail": f"killed after {limits.wall_seconds:g} s", **used}
    report = _read(seen)
    if report is None:
        if _ran_out_of_memory(seen):
            return {"status": Status.memory, "detail": "the engine had no memory to serve it with", **used}
        raise RuntimeFault(f"the engine failed: {_fault(seen)}", hint=_HINT)
    told = report.model_dump(exclude={"microseconds"})
    if report.microseconds is not None:
        used["milliseconds"] = report.microseconds / 1000
    return {**told, **used}


def _read(seen: Seen) -> _Report | None:
    if seen.exit_code != 0:
        return None
    try:
        return _Report.model_validate_json(seen.report)
    except ValidationError:
        return None


def _ran_out_of_memory(seen: Seen) -> bool:
    """Whether the engine gave up for want of memory. A module can pretend that, by crashing: at its own cost."""
    return seen.exit_code in _CRASHES and b"memory allocation of" in seen.stderr[-4_096:]


def _fault(seen: Seen) -> str:
    code, words = seen.exit_code, " ".join(seen.stderr[-300:].decode(errors="replace").split())
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}, without a report"
    return f"{how}; the last of its standard error: {printable(words)}" if words else how


def _require_sound(environment: Any) -> None:
    for name, value in environment.items():
        try:
            text = f"{name}{value}".encode()
        except UnicodeEncodeError:
            text = b"\0"
        if b"\0" in text or "=" in name or not name:
            raise Permanent("a variable for the module cannot be one", hint="names without =, nothing with NUL in it")
