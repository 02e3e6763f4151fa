"""The whole contract of a WASM runtime: what goes in, what comes out, and what an implementation must be able to do."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from millrace.errors import Transient
from millrace.limits import MIB
from millrace.text import printable

_MOST_DETAIL = 500


class Abi(StrEnum):
    """How a module is called."""

    execute = "execute"  # execute(ptr, len) -> pointer to a little-endian u32 length and that many bytes
    wasi_p1 = "wasi_p1"  # a command of WASI preview 1: _start, standard input to standard output
    wasi_p2 = "wasi_p2"  # a component that exports wasi:cli/run@0.2


class Status(StrEnum):
    """How an execution ended. All of them are results of the job; a fault of ours is a RuntimeFault instead."""

    ok = "ok"
    out_of_fuel = "out_of_fuel"  # it ran as many instructions as it may
    memory = "memory"  # it cannot even begin within its limits on memory and tables, or the engine cannot serve it
    stack_overflow = "stack_overflow"
    unreachable = "unreachable"  # what panic and abort are compiled to
    trap = "trap"  # any other trap; `trap` names it
    timeout = "timeout"
    output_limit = "output_limit"
    exit = "exit"  # it exited with another status than 0; `code` is that status
    guest_error = "guest_error"  # `execute` returned a negative number, `code`
    bad_result = "bad_result"  # what `execute` returned points outside its memory, or it exited without a result
    bad_module = "bad_module"  # no WASM, or of a kind that is not run here
    too_large = "too_large"  # over a cap on modules, or over what compiling one may take
    missing_export = "missing_export"
    missing_import = "missing_import"


class WasmLimits(BaseModel):
    """Upper bounds of one execution; each is enforced by the engine, and by the kernel or the worker behind it."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    max_instructions: int = Field(default=1_000_000_000, ge=1, le=2**63 - 1, description="wasmtime's fuel")
    memory_bytes: int = Field(default=128 * MIB, ge=65_536, le=4 << 30, description="Each linear memory")
    wall_seconds: float = Field(default=60.0, gt=0, description="Wall-clock time before the execution is ended")
    output_bytes: int = Field(default=MIB, ge=0, description="Bytes of the result, or of standard output")
    stderr_bytes: int = Field(default=MIB, ge=0, description="Bytes of standard error")
    table_elements: int = Field(default=1_000_000, ge=0, description="Entries of each table")


def _shown(text: str) -> str:
    """Safe for a terminal, and no longer than a person reads: it may quote names that a stranger chose."""
    return printable(text[:_MOST_DETAIL])[:_MOST_DETAIL]


class WasmExecution(BaseModel):
    """What one execution came to. A module that traps or floods has been executed: that is the result.

    `fuel` is None where the engine was interrupted or killed, and may lack the last few instructions before a trap.
    `peak_memory_bytes` is None where the process was killed for its output.
    """

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    status: Status
    output: bytes = Field(default=b"", description="The result, or standard output, as far as it is kept")
    stderr: bytes = b""
    code: int | None = Field(default=None, description="Exit status, or the negative number `execute` returned")
    trap: str | None = Field(default=None, description="wasmtime's name of the trap")
    detail: Annotated[str, AfterValidator(_shown)] = Field(default="", description="How it ended, for a person")
    abi: Abi | None = Field(default=None, description="How it was called; None if it never was")
    fuel: int | None = Field(default=None, description="Instructions used, in wasmtime's unit")
    peak_memory_bytes: int | None = Field(
        default=None, description="Linear memory; of a component, and of what was killed, resident"
    )
    milliseconds: float = Field(default=0.0, description="Wall-clock time of the execution, without compilation")
    compile_milliseconds: float | None = Field(default=None, description="None where the compiled module was cached")
    module_sha256: str = ""
    runtime: str = Field(default="", description="Engine and version")
    limits: WasmLimits = Field(default_factory=WasmLimits)

    @property
    def succeeded(self) -> bool:
        """Whether `output` is the job's answer."""
        return self.status is Status.ok


@dataclass(frozen=True)
class Call:
    """One execution: a module, what it reads, the variables it sees, its limits.

    `target` is the Rust target that it was built for, if anybody knows: it decides only where the module's own exports
    leave two ways to call it.
    """

    module: bytes
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: WasmLimits = field(default_factory=WasmLimits)
    target: str = ""


class RuntimeFault(Transient):
    """The runtime itself failed; the job has not been judged and may be run again."""


class Cancelled(RuntimeFault):
    """The execution was stopped because somebody asked for it."""


class Runtime(Protocol):
    """A way to run a stranger's WASM so that it can reach nothing of ours."""

    @property
    def name(self) -> str:
        """Engine and version, as receipts show it."""
        ...

    def execute(self, call: Call, cancel: threading.Event | None = None) -> WasmExecution:
        """Run one module and wait for its end; may be called from any thread, many at once.

        Raises RuntimeFault if it could not be judged, Cancelled once `cancel` is set: the execution is dead by then.
        """
        ...

    def close(self) -> None:
        """End every process it has; what runs meanwhile raises RuntimeFault."""
        ...
