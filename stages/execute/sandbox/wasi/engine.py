"""The process that one program runs in: wasmtime with CPython as a WASM module, which is given nothing of the machine.

Started by its path, in an empty environment, with two arguments: the name of what it belongs to, and its task as JSON.
It imports nothing of ours, takes its rights away before the first instruction of the program, and reports on a pipe
that the program has no handle for. The worker kills it when its time is up: neither an epoch nor fuel ends a program
that sleeps inside a call of WASI.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

CONFIGURATION: dict[str, Any] = {
    "epoch_interruption": True,
    # The most that wasmtime-py allows is the size of its unused stack for async calls, 2 MiB.
    "max_wasm_stack": 3 << 19,
    "native_unwind_info": False,
    # Nothing that CPython's build does not use: less to attack.
    "wasm_threads": False,
    "wasm_memory64": False,
    "wasm_multi_memory": False,
    "wasm_relaxed_simd": False,
    "wasm_tail_call": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_exceptions": False,
    "wasm_component_model": False,
}
"""wasmtime's settings. A compiled module is good for exactly these."""

TRAPS: tuple[tuple[str, int], ...] = (
    ("INTERRUPT", signal.SIGXCPU),
    ("STACK_OVERFLOW", signal.SIGSEGV),
    ("MEMORY_OUT_OF_BOUNDS", signal.SIGSEGV),
    ("TABLE_OUT_OF_BOUNDS", signal.SIGSEGV),
    ("INDIRECT_CALL_TO_NULL", signal.SIGSEGV),
    ("BAD_SIGNATURE", signal.SIGSEGV),
    ("INTEGER_DIVISION_BY_ZERO", signal.SIGFPE),
    ("INTEGER_OVERFLOW", signal.SIGFPE),
    ("BAD_CONVERSION_TO_INTEGER", signal.SIGFPE),
    # What the C library's abort() is compiled to.
    ("UNREACHABLE", signal.SIGABRT),
    ("ANOTHER_TRAP", signal.SIGABRT),
    # A call of WASI with arguments that the engine answers with an error of its own, not with an errno.
    ("BAD_CALL_OF_WASI", signal.SIGSYS),
)
"""wasmtime's traps and the signal that the same mistake brings upon a native program."""

GUEST_STACK_BYTES = 8 << 20
"""Of the thread the program runs on. A stack not larger than max_wasm_stack is overrun without a trap."""

HOST_BYTES = 256 << 20
"""Memory of the engine itself. It copies at most what the program has: hence twice the program's, and this."""

TICK_SECONDS = 0.05
LATE_SECONDS = 1.0
"""How much later than the worker the engine itself ends a program, should the worker be stopped."""

_SIGNAL_CODE = 128  # as a shell writes signals
_PR_SET_PDEATHSIG, NO_NEW_PRIVS = 1, 38
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = ctypes.c_long(1), ctypes.c_long(1)


class Exit(Exception):
    """The program called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main() -> None:
    """Do the task: compile standard input to standard output, or run a program."""
    task = json.loads(sys.argv[2])
    die_with(task["parent"])
    prctl(NO_NEW_PRIVS, 1)  # each thread has its own, and hands it down
    # The first to go when the machine runs out of memory; a worker's own protection is not inherited.
    Path("/proc/self/oom_score_adj").write_text("800")
    sys.path.append(task["site"])
    if task["act"] == "compile":
        compile_module()
    else:
        run(task)
    sys.stdout.flush()
    # Threads of the engine may be anywhere; an orderly end of the interpreter could abort in one of them.
    os._exit(0)


def configured_engine() -> Any:
    """An engine as `CONFIGURATION` says."""
    import wasmtime

    config = wasmtime.Config()
    for name, value in CONFIGURATION.items():
        setattr(config, name, value)
    return wasmtime.Engine(config)


def compile_module() -> None:
    """Read a module, write it as machine code for this processor."""
    import wasmtime

    module = wasmtime.Module(configured_engine(), sys.stdin.buffer.read())
    sys.stdout.buffer.write(module.serialize())


def run(task: dict[str, Any]) -> None:
    """Run the module behind a descriptor and report how it ended.

    `module`, `report` and `filter` (may be None) are descriptors; `arguments` the program's; `memory_bytes`,
    `cpu_seconds` and `wall_seconds` its limits; `user` the id to become, None to stay who we are.
    """
    import wasmtime

    engine = configured_engine()
    # The worker sealed these bytes after it had checked them: they are our own machine code.
    module = wasmtime.Module.deserialize_file(engine, f"/proc/self/fd/{task['module']}")
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=task["memory_bytes"], table_elements=100_000, instances=1, tables=4, memories=1)
    store.set_epoch_deadline(1)
    store.set_wasi(_nothing_but_streams(task))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    take_over_exit(linker)
    with Path("/proc/self/status").open("rb", buffering=0) as status:
        _limit(task)
        _become(task)
        ending = _Guest(store, linker, module).run(engine, task)
        report = {**ending, "cpu-microseconds": int(time.process_time() * 1e6), "peak-bytes": _peak(status)}
    os.write(task["report"], json.dumps(report).encode() + b"\n")


class _Guest:
    """The program, on a thread with a stack of known size, while the first thread watches the clocks."""

    def __init__(self, store: Any, linker: Any, module: Any) -> None:
        self._parts = (store, linker, module)
        self._ended = threading.Event()
        self._ending: dict[str, int] = {}

    def run(self, engine: Any, task: dict[str, Any]) -> dict[str, int]:
        os.write(task["report"], b'{"started": 1}\n')
        threading.stack_size(GUEST_STACK_BYTES)
        cpu_until = time.process_time() + task["cpu_seconds"]
        wall_until = time.monotonic() + task["wall_seconds"] + LATE_SECONDS
        threading.Thread(target=self._work, daemon=True).start()
        while not self._ended.wait(TICK_SECONDS):
            if time.process_time() >= cpu_until or time.monotonic() >= wall_until:
                engine.increment_epoch()
        return self._ending

    def _work(self) -> None:
        store, linker, module = self._parts
        start = None
        try:
            start = linker.instantiate(store, module).exports(store)["_start"]
            start(store)
            self._ending = {"exit-code": 0}
        except BaseException as error:  # noqa: BLE001 whatever it is, the worker is told
            self._ending = ending_of(error, began=start is not None)
        self._ended.set()


def ending_of(error: BaseException, *, began: bool) -> dict[str, int]:
    """What to report of a program that was ended by `error`, before or after it `began`.

    Nothing if that says something about us, not about the program.
    """
    import wasmtime

    if isinstance(error, Exit):
        return {"exit-code": error.code & 0xFF}  # all that a kernel hands on
    if isinstance(error, wasmtime.Trap) and error.trap_code is not None:
        known = error.trap_code.name in dict(TRAPS)
        return _trapped(error.trap_code.name if known else "ANOTHER_TRAP")
    if isinstance(error, wasmtime.WasmtimeError) and began:
        return _trapped("BAD_CALL_OF_WASI")
    if isinstance(error, wasmtime.WasmtimeError) and "exceeds memory limits" in str(error):
        return {"oom-kill": 1}
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return {}


def _trapped(name: str) -> dict[str, int]:
    index = [known for known, _ in TRAPS].index(name)
    return {"exit-code": _SIGNAL_CODE + TRAPS[index][1], "trap": index}


def _nothing_but_streams(task: dict[str, Any]) -> Any:
    """No folder, no variable, no socket: the program's arguments, its input, and two pipes to write to."""
    import wasmtime

    wasi = wasmtime.WasiConfig()
    wasi.argv = task["arguments"]
    wasi.stdin_file = "/proc/self/fd/0"
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    return wasi


def take_over_exit(linker: Any) -> None:
    """wasmtime's own proc_exit refuses codes from 126 on, without telling which it was."""
    import wasmtime

    def proc_exit(code: int) -> None:
        raise Exit(code)

    linker.allow_shadowing = True
    kind = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    linker.define_func("wasi_snapshot_preview1", "proc_exit", kind, proc_exit)


def _limit(task: dict[str, Any]) -> None:
    """Limits of the kernel behind those of the engine: they bind only if the engine fails."""
    cpu = int(task["cpu_seconds"]) + 10
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_DATA: 2 * task["memory_bytes"] + HOST_BYTES,
    }
    lower(limits)


def lower(limits: dict[int, int]) -> None:
    """Lower these limits of the kernel for good, each as far as asked and no further than it is already."""
    for kind, value in limits.items():
        _, most = resource.getrlimit(kind)
        bound = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (bound, bound))


def _become(task: dict[str, Any]) -> None:
    """Give up, for good, every right that the program's run does not need."""
    if task["user"] is not None:
        os.setgroups([])
        os.setresgid(task["user"], task["user"], task["user"])
        os.setresuid(task["user"], task["user"], task["user"])
    die_with(task["parent"])  # changing the user has undone it
    if task["filter"] is not None:
        filter_system_calls(os.read(task["filter"], 1 << 16))


def filter_system_calls(program: bytes) -> None:
    """From here on, for every thread: wasmtime has started some."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.byref(Program(len(program) // 8, program)),
    )
    if libc.syscall(ctypes.c_long(_SECCOMP_CALL[platform.machine()]), *arguments) != 0:
        raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def die_with(parent: int) -> None:
    """Be killed when the worker's thread that started us ends."""
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        raise RuntimeError("the worker is gone")


def prctl(option: int, value: int) -> None:
    """The system call of that name. Raises OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, (value, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _peak(status: Any) -> int:
    """The most memory that this process ever had, in bytes."""
    status.seek(0)
    lines: list[bytes] = status.read().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"VmHWM")), 0)


if __name__ == "__main__":
    main()
