"""What `millrace doctor` has to say about the WASM runtime."""

from __future__ import annotations

from millrace.errors import MillraceError
from millrace.finding import Finding
from millrace.settings import Settings
from stages.execute.wasm.opening import open_wasmtime
from stages.execute.wasm.selftest import check


def diagnose_wasm(settings: Settings) -> list[Finding]:
    """Open the runtime and try it out. Raises nothing on purpose: it is the report."""
    try:
        runtime = open_wasmtime(settings)
    except MillraceError as error:
        return [Finding("missing", f"wasm: {error.message}", error.hint)]
    try:
        tests = check(runtime)
    finally:
        runtime.close()
    remedy = "run `millrace doctor` once more; if it stays so, report it with your kernel's version"
    failed = [
        Finding("missing", f"wasm: not kept: {test.name} ({test.detail})", remedy) for test in tests if not test.passed
    ]
    return failed or [Finding("ok", f"wasm: {runtime.name}; {len(tests)} promises tried out and kept")]
