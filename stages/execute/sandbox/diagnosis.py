"""What `millrace doctor` has to say about the sandbox."""

from __future__ import annotations

import os

from millrace.errors import Declined
from millrace.finding import Finding
from millrace.settings import Settings
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.opening import install_hint, open_bubblewrap
from stages.execute.sandbox.selftest import remedy
from stages.execute.sandbox.tools import missing_tools


def diagnose(settings: Settings) -> list[Finding]:
    """Look for everything the sandbox needs, then try it out. Raises nothing on purpose: it is the report."""
    if settings.sandbox.backend == "wasi":
        from stages.execute.sandbox.wasi.diagnosis import diagnose_wasi

        return diagnose_wasi(settings)
    if settings.sandbox.backend == "docker":
        from stages.execute.sandbox.containers.diagnosis import diagnose_docker

        return diagnose_docker(settings)
    missing = missing_tools(settings.sandbox.python)
    if missing:
        return [
            Finding("missing", f"sandbox: {what} is missing", install_hint([(what, package)]))
            for what, package in missing
        ]
    try:
        sandbox = open_bubblewrap(settings)
    except Declined as error:
        return [Finding("missing", f"sandbox: {error.message}", error.hint)]
    return [*_tried_out(sandbox), *_weak(sandbox)]


def _tried_out(sandbox: BubblewrapSandbox) -> list[Finding]:
    tests = sandbox.self_test()
    failed = [test for test in tests if not test.passed]
    if failed:
        return [Finding("missing", f"sandbox: not kept: {t.name} ({t.detail})", remedy(t.detail)) for t in failed]
    where = sandbox.hierarchy.name if sandbox.hierarchy else "resource limits only"
    return [
        Finding("ok", f"sandbox: {sandbox.name} at {sandbox.interpreter.executable}"),
        Finding("ok", f"sandbox: {len(tests)} promises tried out and kept; limits by {where}"),
    ]


def _weak(sandbox: BubblewrapSandbox) -> list[Finding]:
    action = (
        "run the worker as a systemd service with Delegate=yes"
        if os.geteuid() == 0
        else "run the worker as a systemd service (Delegate=yes), or inside a session of the user's own systemd"
    )
    return [Finding("weak", f"sandbox: {text}", action) for text in sandbox.describe()]
