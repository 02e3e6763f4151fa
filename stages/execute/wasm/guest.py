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

READY = b"ready"

CORE: dict[str, Any] = {
    "consume_fuel": True,
    "epoch_interruption": True,
    # The most that wasmtime-py allows is the size of its unused stack for async calls, 2 MiB.
    "max_wasm_stack": 3 << 19,
    "native_unwind_info": False,
    "parallel_compilation": False,
    # It would need a file in memory for each module, which the filter does not let a child make.
    "memory_init_cow": False,
    # The same input must give the same bytes everywhere.
    "cranelift_nan_canonicalization": True,
    "wasm_relaxed_simd": False,
    # Not in the targets that jobs are built for: less to attack.
    "wasm_threads": False,
    "wasm_memory64": False,
    "wasm_multi_memory": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_exceptions": False,
    "wasm_component_model": False,
}
COMPONENT: dict[str, Any] = {**CORE, "wasm_component_model": True}
"""wasmtime's settings for modules and for components. Machine code is good for exactly these."""

MOST_REPORT_BYTES = 4_096
_MOST_DETAIL = 400

_ALLOCATORS = ("alloc", "malloc", "__alloc", "allocate")
_PAGE = 65_536
_CLEAR_PAGES = 16
"""Left below the input in a memory that begins empty, for the guest's own use."""

_CORE_LIMITS = {"instances": 1, "memories": 1, "tables": 10}
_COMPONENT_LIMITS = {"instances": 100, "memories": 8, "tables": 100}

_TRAPS = {"OUT_OF_FUEL": "out_of_fuel", "STACK_OVERFLOW": "stack_overflow", "UNREACHABLE": "unreachable"}
_TRAP_WORDS = {
    "all fuel consumed by WebAssembly": "OUT_OF_FUEL",
    "call stack exhausted": "STACK_OVERFLOW",
    "wasm `unreachable` instruction executed": "UNREACHABLE",
    "interrupt": "INTERRUPT",
    "out of bounds memory access": "MEMORY_OUT_OF_BOUNDS",
    "undefined element: out of bounds table access": "TABLE_OUT_OF_BOUNDS",
    "uninitialized element": "INDIRECT_CALL_TO_NULL",
    "indirect call type mismatch": "BAD_SIGNATURE",
    "integer overflow": "INTEGER_OVERFLOW",
    "integer divide by zero": "INTEGER_DIVISION_BY_ZERO",
    "invalid conversion to integer": "BAD_CONVERSION_TO_INTEGER",
    "cannot leave component instance": "CANNOT_LEAVE_COMPONENT",
    "cannot enter component instance": "CANNOT_ENTER_COMPONENT",
}
"""A component's traps come as text only: what the engine says of each, and its code's name."""

_TOO_MUCH = ("exceeds memory limits", "exceeds table limits", "count too high")
_NOT_LINKED = ("unknown import", "incompatible import type", "matching implementation was not found")
_OF_THE_MACHINE = ("os error", "cannot create", "mmap", "failed to make memory")
"""What the engine says of limits, of imports, and of a kernel that refused it something."""


class Ended(Exception):
    """The job is over, for a reason that is its own."""

    def __init__(self, status: str, detail: str = "", *, code: int | None = None, trap: str | None = None) -> None:
        super().__init__(status)
        self.report = {"status": status, "detail": detail[:_MOST_DETAIL], "code": code, "trap": trap}


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
    job = json.loads(_whole(task))
    os.dup2(stdin, 0)
    # What `execute` returns is the output: what such a module prints is for people.
    os.dup2(stderr if job.get("abi") == "execute" else stdout, 1)
    os.dup2(stderr, 2)
    _limit(job, tools)
    if job["act"] == "compile":
        told = _compile(prepared[job["component"]].engine, job, _whole(module), stdout)
    else:
        told = _Run(job, tools, stdout, stdin, prepared[job["abi"] == "wasi_p2"]).report(_whole(module))
    os.write(report, json.dumps(told).encode()[:MOST_REPORT_BYTES])
    # Threads of the engine may be anywhere; an orderly end of the interpreter could abort in one of them.
    os._exit(0)


def _whole(fd: int) -> bytes:
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


def configured(component: bool) -> Any:
    """An engine as `CORE` or `COMPONENT` says."""
    import wasmtime

    config = wasmtime.Config()
    for name, value in (COMPONENT if component else CORE).items():
        setattr(config, name, value)
    return wasmtime.Engine(config)


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
        return {"status": "bad_module", "detail": _words(error)}
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
        self._ended = threading.Event()
        self._told: dict[str, Any] = {}
        self._component: bool = job["abi"] == "wasi_p2"
        self._memory: Any = None

    def report(self, code: bytes) -> dict[str, Any]:
        """Run the machine code to its end, or to the end of its time."""
        import wasmtime

        self._store = store = wasmtime.Store(self._engine)
        counts = _COMPONENT_LIMITS if self._component else _CORE_LIMITS
        store.set_limits(memory_size=self._job["memory_bytes"], table_elements=self._job["table_elements"], **counts)
        store.set_fuel(self._job["max_instructions"])
        store.set_epoch_deadline(1)
        store.set_wasi(self._wasi())
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
        peak = _resident_bytes() - resident if self._memory is None else self._memory.data_len(store)
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
            self._call_component(code) if self._component else self._call_module(code)
            self._told = {"status": "ok"}
        except Ended as ended:
            self._told = ended.report
        except BaseException as error:  # noqa: BLE001 whatever it is, the worker is told
            self._told = self._meaning_of(error)
        self._ended.set()

    def _meaning_of(self, error: BaseException) -> dict[str, Any]:
        """What `error` says of the job; nothing if it says something about us."""
        import wasmtime

        if isinstance(error, (self._tools.Exit, wasmtime.ExitTrap)):
            code = error.code & 0xFFFF_FFFF
            if code:
                return Ended("exit", f"exit status {code}", code=code).report
            if self._job["abi"] == "execute":
                return Ended("bad_result", "it exited without a result", code=0).report
            return {"status": "ok", "code": 0}
        if (name := _trap(error)) is not None:
            if name == "INTERRUPT":
                return Ended("timeout", f"ended after {self._job['wall_seconds']:g} s").report
            return Ended(_TRAPS.get(name, "trap"), name.lower().replace("_", " "), trap=name).report
        if isinstance(error, wasmtime.WasmtimeError):
            whole = str(error)
            if any(part in whole for part in _TOO_MUCH):
                return Ended("memory", _words(error)).report
            if any(part in whole for part in _NOT_LINKED):
                return Ended("missing_import", " ".join(whole.split())).report
            if self._began:
                return Ended("trap", _words(error), trap="BAD_CALL_OF_HOST").report
            if not any(part in whole for part in _OF_THE_MACHINE):
                return Ended("bad_module", _words(error)).report
        os.write(2, f"{type(error).__name__}: {error}\n".encode()[:_MOST_DETAIL])
        return {}

    _began = False

    def _call_module(self, code: bytes) -> None:
        import wasmtime

        store = self._store
        module = wasmtime.Module.deserialize(self._engine, code)
        instance = self._linker.instantiate(store, module)
        self._began = True
        exports = instance.exports(store)
        memory = exports.get("memory")
        self._memory = memory if isinstance(memory, wasmtime.Memory) else None
        if self._job["abi"] == "wasi_p1":
            self._function(exports, "_start", [], [])(store)
            return
        if self._memory is None:
            raise Ended("missing_export", "the export `memory` is no memory")
        execute = self._function(exports, "execute", ["i32", "i32"], ["i32"])
        if "_initialize" in exports:
            self._function(exports, "_initialize", [], [])(store)
        given = _whole(self._stdin)
        self._answer(execute(store, _signed(self._place(exports, given)), _signed(len(given))))

    def _call_component(self, code: bytes) -> None:
        import wasmtime.component as component

        store = self._store
        made = component.Component.deserialize(self._engine, code)
        run = next((name for name in made.type.exports(self._engine) if name.startswith("wasi:cli/run@0.2.")), None)
        if run is None:
            raise Ended("missing_export", "the component does not export wasi:cli/run@0.2")
        instance = self._linker.instantiate(store, made)
        self._began = True
        index = instance.get_export_index(store, run)
        index = instance.get_export_index(store, "run", index) if index is not None else None
        function = instance.get_func(store, index) if index is not None else None
        if function is None:
            raise Ended("missing_export", f"{run} has no function `run`")
        answer = function(store)
        if getattr(answer, "tag", "ok") != "ok":
            raise Ended("exit", "`run` returned an error", code=1)

    def _function(self, exports: Any, name: str, takes: list[str], gives: list[str]) -> Any:
        import wasmtime

        found = exports.get(name)
        if not isinstance(found, wasmtime.Func):
            raise Ended("missing_export", f"there is no function `{name}` among the exports")
        kind = found.type(self._store)
        if [str(kind) for kind in kind.params] != takes or [str(kind) for kind in kind.results] != gives:
            raise Ended("missing_export", f"`{name}` is not a function of ({', '.join(takes)}) -> ({', '.join(gives)})")
        return found

    def _place(self, exports: Any, given: bytes) -> int:
        """Put the input where the guest has nothing: where its allocator says, else behind its memory."""
        import wasmtime

        memory, store = self._memory, self._store
        for name in _ALLOCATORS:
            found = exports.get(name)
            if isinstance(found, wasmtime.Func) and [str(kind) for kind in found.type(store).params] == ["i32"]:
                at = int(found(store, _signed(len(given))) or 0) & 0xFFFF_FFFF
                if at == 0 or at + len(given) > memory.data_len(store):
                    raise Ended("memory", f"`{name}` gave no room for the input of {len(given)} bytes")
                memory.write(store, given, at)
                return at
        size = memory.data_len(store)
        # Offset 0 is a null pointer in most languages, so an empty memory gets room before the input too.
        before = 0 if size else _CLEAR_PAGES
        try:
            memory.grow(store, before + max(1, -(-len(given) // _PAGE)))
            at = size + before * _PAGE
        except wasmtime.WasmtimeError:
            # A memory that cannot grow: at its beginning, where the network's first worker put every input.
            if len(given) > size:
                raise Ended("memory", f"there is no room for the input of {len(given)} bytes") from None
            at = 0
        memory.write(store, given, at)
        return at

    def _answer(self, returned: int) -> None:
        """Write out what `execute` returned a pointer to."""
        if returned < 0:
            raise Ended("guest_error", f"`execute` returned {returned}", code=returned)
        memory, store = self._memory, self._store
        size, begin = memory.data_len(store), returned + 4
        if begin > size:
            raise Ended("bad_result", f"the result at {returned} lies outside the memory of {size} bytes")
        length = int.from_bytes(memory.read(store, returned, begin), "little")
        if begin + length > size:
            raise Ended("bad_result", f"the result of {length} bytes at {returned} ends outside the memory")
        if length > self._job["output_bytes"]:
            raise Ended("output_limit", f"the result has {length} bytes, more than {self._job['output_bytes']}")
        at = begin
        while at < begin + length:
            at += os.write(self._stdout, memory.read(store, at, min(begin + length, at + (1 << 20))))


def _trap(error: BaseException) -> str | None:
    """The name of the trap that `error` is, if it is one."""
    import wasmtime

    if isinstance(error, wasmtime.Trap):
        return error.trap_code.name if error.trap_code is not None else "ANOTHER_TRAP"
    # What comes before is a backtrace with names that the guest has chosen.
    _, mark, words = str(error).rpartition("wasm trap: ")
    if not mark or not isinstance(error, wasmtime.WasmtimeError):
        return None
    return next((name for text, name in _TRAP_WORDS.items() if words.startswith(text)), "ANOTHER_TRAP")


def _signed(number: int) -> int:
    """The i32 with these bits."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _resident_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _words(error: BaseException) -> str:
    """What the engine says, without the backtrace that may come before the cause."""
    said = str(error)
    return " ".join((said.rpartition("Caused by:")[2] or said).split())[:_MOST_DETAIL]
