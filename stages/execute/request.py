"""Execute a module: the one that a request to OffchainVM names, as its contract promises, or one by hand."""

from __future__ import annotations

from millrace.errors import Transient
from millrace.limits import MIB
from protocols.near.job import OffchainVmJob, guest_environment
from stages.execute.python import Content
from stages.execute.wasm.interface import Runtime, WasmExecution, WasmLimits
from stages.execute.wasm.stage import execute_wasm


async def execute_request(
    module_cid: str, job: OffchainVmJob, output_bytes: int, *, content: Content, runtime: Runtime
) -> WasmExecution:
    """Run the module with that CID on the request's input, within the request's limits and `output_bytes`.

    Errors are those of `execute_wasm` and of the store; JobFault for a request that no program can be told of,
    Transient if its input is not known.
    """
    if job.request.input_data_in_state:
        raise Transient("the request's input is in the contract's state and was not read", job=job.key)
    asked = job.request.resource_limits
    limits = WasmLimits(
        max_instructions=asked.max_instructions,
        memory_bytes=asked.max_memory_mb * MIB,
        wall_seconds=asked.max_execution_seconds,
        output_bytes=output_bytes,
    )
    return await execute_wasm(
        content.store.get(module_cid),
        job.request.input_data.encode(),
        limits,
        runtime=runtime,
        environment=guest_environment(job, job.chain_id.partition(":")[0]),
        target=job.target,
    )


async def execute_module(
    module_cid: str, stdin: str, limits: WasmLimits, target: str, *, content: Content, runtime: Runtime
) -> WasmExecution:
    """Run the module with that CID on a text, without variables; errors are those of `execute_request`."""
    return await execute_wasm(content.store.get(module_cid), stdin.encode(), limits, runtime=runtime, target=target)
