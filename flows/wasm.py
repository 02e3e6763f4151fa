"""The WASM runtime that all flow runs of a worker share: forked flow runs inherit one that is warm."""

from __future__ import annotations

from pathlib import Path

from millrace.settings import Settings
from stages.execute.wasm.interface import Runtime
from stages.execute.wasm.opening import open_wasmtime
from stages.execute.wasm.runtime import WasmtimeRuntime

_open: dict[Path, WasmtimeRuntime] = {}
"""The one there is, by the data folder that has its cache; it is closed by the end of the process."""


def wasm_runtime(settings: Settings) -> Runtime:
    """This process's runtime, or that of the process it was forked from. Declined (no_sandbox) where there is none.

    Another data folder gets another one, in the place of the former: each holds users of the machine's for itself.
    """
    return _runtime(settings)


def warm_up(settings: Settings) -> None:
    """Start what the first execution would wait for; to be called before flow runs are forked."""
    _runtime(settings).warm_up()


def _runtime(settings: Settings) -> WasmtimeRuntime:
    folder = settings.data_dir.absolute()
    if folder not in _open:
        while _open:
            _open.popitem()[1].close()
        _open[folder] = open_wasmtime(settings)
    return _open[folder]
