"""What an engine's errors say of a job: a trap, a limit, an import that nobody provides, an exit."""

from __future__ import annotations

import os
from typing import Any

MOST_DETAIL = 400

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
        self.report = {"status": status, "detail": detail[:MOST_DETAIL], "code": code, "trap": trap}


def meaning_of(error: BaseException, job: dict[str, Any], exits: type[Exception], *, began: bool) -> dict[str, Any]:
    """What to report of a job that was ended by `error`, before or after the guest `began`.

    `exits` is what the guest's own exit raises. Nothing if `error` says something about us, not about the job.
    """
    import wasmtime

    if isinstance(error, (exits, wasmtime.ExitTrap)):
        code = int(getattr(error, "code", 0)) & 0xFFFF_FFFF
        if code:
            return Ended("exit", f"exit status {code}", code=code).report
        if job["abi"] == "execute":
            return Ended("bad_result", "it exited without a result", code=0).report
        return {"status": "ok", "code": 0}
    if (name := _trap(error)) is not None:
        if name == "INTERRUPT":
            return Ended("timeout", f"ended after {job['wall_seconds']:g} s").report
        return Ended(_TRAPS.get(name, "trap"), name.lower().replace("_", " "), trap=name).report
    if isinstance(error, wasmtime.WasmtimeError):
        whole = str(error)
        if any(part in whole for part in _TOO_MUCH):
            return Ended("memory", words_of(error)).report
        if any(part in whole for part in _NOT_LINKED):
            return Ended("missing_import", " ".join(whole.split())).report
        if began:
            return Ended("trap", words_of(error), trap="BAD_CALL_OF_HOST").report
        if not any(part in whole for part in _OF_THE_MACHINE):
            return Ended("bad_module", words_of(error)).report
    os.write(2, f"{type(error).__name__}: {error}\n".encode()[:MOST_DETAIL])
    return {}


def words_of(error: BaseException) -> str:
    """What the engine says, without the backtrace that may come before the cause."""
    said = str(error)
    return " ".join((said.rpartition("Caused by:")[2] or said).split())[:MOST_DETAIL]


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
