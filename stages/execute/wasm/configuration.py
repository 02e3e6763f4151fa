"""wasmtime's settings for the modules and components of jobs."""

from __future__ import annotations

from typing import Any

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


def configured(component: bool) -> Any:
    """An engine as `CORE` or `COMPONENT` says."""
    import wasmtime

    config = wasmtime.Config()
    for name, value in (COMPONENT if component else CORE).items():
        setattr(config, name, value)
    return wasmtime.Engine(config)
