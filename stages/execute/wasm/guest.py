"""A child: it gives up every right, waits for one job, does it, and ends. Either it compiles or it runs a module.

It is a fork of the forker, which is how it comes to have imported wasmtime. `tools` is the engine of the `wasi` back
end. A child that compiles runs nothing of the module; a child that runs gets machine code that the worker has checked.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
from typing import Any

from stages.execute.wasm.calling import Caller
from stages.execute.wasm.configuration import configured
from stages.execute.wasm.endings import Ended, meaning_of, words_of

READY = b"ready"

MOST_REPORT_BYTES = 16_384
_CORE_LIMITS = {"instances": 1, "memories": 1, "tables": 10}
_COMPONENT_LIMITS = {"instances": 100, "memories": 8, "tables": 100}


def serve(channel: socket.socket, user: int | None, parent: int, filtering: bytes | None, tools: Any) -> None:
    """Become harmless, say so, and do the one job that comes."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    tools.die_with(parent)
    if filtering is not None:
        tools.filter_system_calls(filtering)
    prepared = {component: _Prepared(component, tools) for component in (False, True)}
    os.write(channel.fileno(), READY)
    message, files, *_ = socket.recv_fds(channel, 16, 6)
    channel.close()
    if not message or len(files) != 6:
        os._exit(0)
    task, module, stdin, stdout, stderr, report = files
    job = json.loads(whole(task))
    os.dup2(stdin, 0)
    # What `execute` returns is the output: what such a module prints is for people.
    os.dup2(stderr if job.get("abi") == "execute" else stdout, 1)
    os.dup2(stderr, 2)
    _limit(job, tools)
    if job["act"] == "compile":
        told = _compile(prepared[job["component"]].engine, job, whole(module), stdout)
    else:
        told = _Run(job, tools, stdout, stdin, prepared[job["abi"] == "wasi_p2"]).report(whole(module))
    os.write(report, json.dumps(told).encode()[:MOST_REPORT_BYTES])
    # Threads of the engine may be anywhere; an orderly end of the interpreter could abort in one of them.
    os._exit(0)


def whole(fd: int) -> bytes:
    """All of a file that others may be reading too, so that its position is not ours to move."""
    size, parts, at = os.fstat(fd).st_size, [], 0
    while at < size:
        parts.append(os.pread(fd, size - at, at))
        at += len(parts[-1])
    return b"".join(parts)


def _limit(job: dict[str, Any], tools: Any) -> None:
    """Limits of the kernel behind those of the engine: they bind if the engine has none, as when it compiles."""
    cpu = int(job["cpu_seconds"])
    tools.lower(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_CPU: cpu + 5,
            resource.RLIMIT_DATA: job["process_bytes"],
        }
    )
    # First the signal that tells CPU time from any other kill.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))


class _Prepared:
    """An engine and a linker, made before the job comes: a few milliseconds that it does not wait for."""

    def __init__(self, component: bool, tools: Any) -> None:
        import wasmtime
        import wasmtime.component

        self.engine = configured(component)
        self.linker: Any
        if component:
            self.linker = wasmtime.component.Linker(self.engine)
            self.linker.add_wasip2()
        else:
            self.linker = wasmtime.Linker(self.engine)
            self.linker.define_wasi()
            tools.take_over_exit(self.linker)


def _compile(engine: Any, job: dict[str, Any], module: bytes, stdout: int) -> dict[str, Any]:
    import wasmtime
    import wasmtime.component

    kind: Any = wasmtime.component.Component if job["component"] else wasmtime.Module
    try:
        made = memoryview(kind(engine, module).serialize())
    except wasmtime.WasmtimeError as error:
        return {"status": "bad_module", "detail": words_of(error)}
    at = 0
    while at < len(made):
        at += os.write(stdout, made[at:])
    return {"status": "ok"}


class _Run:
    """One execution, on a thread with a stack of known size, while the first thread watches the clock."""

    def __init__(self, job: dict[str, Any], tools: Any, stdout: int, stdin: int, prepared: _Prepared) -> None:
        self._job, self._tools = job, tools
        self._engine, self._linker = prepared.engine, prepared.linker
        self._stdout, self._stdin = stdout, stdin
        self._caller: Any = None
        self._ended = threading.Event()
        self._told: dict[str, Any] = {}
        self._component: bool = job["abi"] == "wasi_p2"

    def report(self, code: bytes) -> dict[str, Any]:
        """Run the machine code to its end, or to the end of its time."""
        import wasmtime

        store = wasmtime.Store(self._engine)
        counts = _COMPONENT_LIMITS if self._component else _CORE_LIMITS
        store.set_limits(memory_size=self._job["memory_bytes"], table_elements=self._job["table_elements"], **counts)
        store.set_fuel(self._job["max_instructions"])
        store.set_epoch_deadline(1)
        store.set_wasi(self._wasi())
        given = whole(self._stdin) if self._job["abi"] == "execute" else b""
        self._caller = Caller(self._engine, self._linker, store, self._job, given, self._stdout)
        resident = _resident_bytes()
        threading.stack_size(self._tools.GUEST_STACK_BYTES)
        began = time.monotonic()
        threading.Thread(target=self._work, args=(code,), daemon=True).start()
        while not self._ended.wait(self._tools.TICK_SECONDS):
            if time.monotonic() >= began + self._job["wall_seconds"]:
                self._engine.increment_epoch()
        took = time.monotonic() - began
        if not self._told:
            return {}
        # An engine that is interrupted has not written down what it used since the last call.
        known = self._told["status"] != "timeout"
        fuel = self._job["max_instructions"] - store.get_fuel() if known else None
        memory = self._caller.memory
        peak = _resident_bytes() - resident if memory is None else memory.data_len(store)
        return {**self._told, "fuel": fuel, "peak_memory_bytes": peak, "microseconds": int(took * 1e6)}

    def _wasi(self) -> Any:
        """No folder, no socket: arguments, variables, and three open files."""
        import wasmtime

        wasi = wasmtime.WasiConfig()
        wasi.argv = ["program"]
        wasi.env = self._job["environment"]
        wasi.inherit_stdin()
        wasi.inherit_stdout()
        wasi.inherit_stderr()
        return wasi

    def _work(self, code: bytes) -> None:
        try:
            self._caller.call(code)
            self._told = {"status": "ok"}
        except Ended as ended:
            self._told = ended.report
        except BaseException as error:  # noqa: BLE001 whatever it is, the worker is told
            self._told = meaning_of(error, self._job, self._tools.Exit, began=self._caller.began)
        self._ended.set()


def _resident_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
