"""Trying the promises of a WASM runtime out on the machine it is to run on."""

from __future__ import annotations

from collections.abc import Iterator

from millrace.errors import Declined, DeclineReason, MillraceError
from millrace.limits import MIB
from stages.execute.sandbox.interface import Check
from stages.execute.wasm.interface import Call, Runtime, Status, WasmExecution, WasmLimits

_LIMITS = WasmLimits(max_instructions=5_000_000, memory_bytes=2 * MIB, wall_seconds=5, output_bytes=4_096)
_TANK = 2**62
_IMPORTS = """
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
"""
_LOOP = "(loop $l (br $l))"
_SLEEP = """(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))"""
_FLOOD = """(i32.store (i32.const 4) (i32.const 4096))
    (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))"""
_VARIABLES = "(drop (call $environ (i32.const 0) (i32.const 4))) (call $exit (i32.load (i32.const 0)))"
_FOLDER = "(call $exit (call $prestat (i32.const 3) (i32.const 0)))"
_GROW = "(call $exit (i32.eq (memory.grow (i32.const 100)) (i32.const -1)))"
_NO_SUCH_DESCRIPTOR = 8


def check(runtime: Runtime) -> list[Check]:
    """Every promise, tried out, in about two seconds; all but the first are left out if nothing runs at all."""
    try:
        first = _check("runs a module", _run(runtime, ""), Status.ok)
        return [first, *_promises(runtime)] if first.passed else [first]
    except MillraceError as error:
        return [Check("runs a module", passed=False, detail=str(error))]


def ensure_keeping(runtime: Runtime) -> None:
    """Return if the runtime keeps its promises, tried out once in this process and all that are forked from it.

    Raises Declined (no_sandbox) with what does not hold.
    """
    if id(runtime) in _kept:
        return
    broken = [told for told in check(runtime) if not told.passed]
    if broken:
        raise Declined(
            f"the WASM runtime does not keep {', '.join(f'{told.name} ({told.detail})' for told in broken)}",
            reason=DeclineReason.no_sandbox,
            hint="`millrace doctor` tells more",
        )
    _kept.add(id(runtime))


_kept: set[int] = set()
"""Runtimes that have kept their promises, by identity: they live as long as their process."""


def _promises(runtime: Runtime) -> Iterator[Check]:
    yield _check("the limit on instructions", _run(runtime, _LOOP), Status.out_of_fuel)
    busy = _LIMITS.model_copy(update={"max_instructions": _TANK, "wall_seconds": 0.3})
    yield _check("the time limit", _run(runtime, _LOOP, busy), Status.timeout)
    yield _check("the time limit, asleep", _run(runtime, _SLEEP, busy), Status.timeout)
    yield _check("the memory limit", _run(runtime, _GROW), Status.exit, code=1)
    roomy = _LIMITS.model_copy(update={"max_instructions": _TANK})
    yield _check("the output limit", _run(runtime, _FLOOD, roomy), Status.output_limit)
    yield _check("nothing of our environment", _run(runtime, _VARIABLES), Status.ok)
    yield _check("no folder of the machine", _run(runtime, _FOLDER), Status.exit, code=_NO_SUCH_DESCRIPTOR)


def _run(runtime: Runtime, start: str, limits: WasmLimits = _LIMITS) -> WasmExecution:
    import wasmtime  # takes longer to import than all the rest of the worker's part

    text = f'(module {_IMPORTS} (memory (export "memory") 1) (func (export "_start") {start}))'
    return runtime.execute(Call(bytes(wasmtime.wat2wasm(text)), limits=limits))


def _check(name: str, ended: WasmExecution, status: Status, code: int | None = None) -> Check:
    passed = ended.status is status and (code is None or ended.code == code)
    return Check(name, passed, f"{ended.status} {ended.detail}".strip())
