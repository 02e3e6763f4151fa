"""What `millrace doctor` has to say about the `wasi` back end."""

from __future__ import annotations

from millrace.errors import Declined
from millrace.finding import Finding
from millrace.settings import Settings
from stages.execute.sandbox.selftest import remedy
from stages.execute.sandbox.wasi.opening import open_wasi


def diagnose_wasi(settings: Settings) -> list[Finding]:
    """Whether the build is there and compiles, what it keeps of its promises, and what is weaker than the default."""
    try:
        sandbox = open_wasi(settings)
        sandbox.compiled.descriptor()
    except Declined as error:
        return [Finding("missing", f"sandbox: {error.message}", error.hint)]
    tests = sandbox.self_test()
    failed = [test for test in tests if not test.passed]
    if failed:
        return [
            Finding("missing", f"sandbox: not kept: {t.name} ({t.detail})", remedy(t.detail, sandbox.name))
            for t in failed
        ]
    action = "where namespaces are allowed, unset MILLRACE_SANDBOX__BACKEND: the default sandbox has none of this"
    return [
        Finding("ok", f"sandbox: {sandbox.name} at {sandbox.compiled.build.path}"),
        Finding("ok", f"sandbox: {len(tests)} promises tried out and kept; limits by wasmtime and the worker"),
        *[Finding("weak", f"sandbox: {text}", action) for text in sandbox.describe()],
    ]
