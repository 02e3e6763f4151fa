"""The stage: execute a WASM module and write down what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from stages.execute.beside import beside_the_loop
from stages.execute.wasm.interface import Call, Runtime, WasmExecution, WasmLimits


async def execute_wasm(
    module: bytes,
    stdin: bytes,
    limits: WasmLimits,
    *,
    runtime: Runtime,
    environment: Mapping[str, str] | None = None,
    target: str = "",
) -> WasmExecution:
    """Run `module` on `stdin`, beside the event loop; see `WasmExecution` for what can come of it.

    `environment` is all that the module sees of variables; `target` the Rust target that it was built for, if known.
    A cancelled task kills the execution before it ends itself. Raises RuntimeFault (Transient) if the runtime failed,
    Declined if it may not keep machine code where it should, Permanent for variables that cannot be any.
    """
    call = Call(module, stdin, dict(environment or {}), limits, target)
    return await beside_the_loop(lambda cancel: runtime.execute(call, cancel))
