"""Getting the WASM runtime as this machine can have it."""

from __future__ import annotations

import sys

from millrace.errors import Declined, DeclineReason
from millrace.settings import Settings
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.wasi.opening import may_become_others
from stages.execute.sandbox.wasi.system_calls import engine_filter
from stages.execute.wasm.cache import ModuleCache
from stages.execute.wasm.nursery import Nursery, Pool
from stages.execute.wasm.runtime import Compilation, WasmtimeRuntime
from stages.execute.wasm.sections import Caps


def open_wasmtime(
    settings: Settings,
    *,
    pool: Pool | None = None,
    caps: Caps | None = None,
    compilation: Compilation | None = None,
    cache_bytes: int = 2 << 30,
) -> WasmtimeRuntime:
    """The runtime, with its cache in the data folder; nothing is started yet, and the caller closes it.

    Raises Declined(no_sandbox) where it cannot be had: children are filtered, or there are none.
    """
    if sys.platform != "linux":
        raise Declined("the WASM runtime needs a Linux kernel", reason=DeclineReason.no_sandbox, hint="run on Linux")
    try:
        filtering = engine_filter(awaiting=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise Declined(
            f"the WASM runtime's filter of system calls cannot be made: {error}",
            reason=DeclineReason.no_sandbox,
            hint="sudo apt install libseccomp2",
        ) from error
    own = settings.sandbox
    return WasmtimeRuntime(
        nursery=Nursery(pool or Pool(), Slots(own.first_uid, own.slots) if may_become_others() else None, filtering),
        cache=ModuleCache(settings.data_dir.absolute() / "wasm", cache_bytes),
        caps=caps or Caps(),
        compilation=compilation or Compilation(),
    )
