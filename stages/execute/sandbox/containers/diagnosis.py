"""What `millrace doctor` has to say about the sandbox of containers."""

from __future__ import annotations

from millrace.errors import Declined
from millrace.finding import Finding
from millrace.settings import Settings
from stages.execute.sandbox.containers.opening import open_docker
from stages.execute.sandbox.selftest import remedy


def diagnose_docker(settings: Settings) -> list[Finding]:
    """Look for the daemon, its runtime and the image, then try the sandbox out."""
    try:
        sandbox = open_docker(settings)
    except Declined as error:
        return [Finding("missing", f"sandbox: {error.message}", error.hint)]
    tests = sandbox.self_test()
    if failed := [test for test in tests if not test.passed]:
        return [
            Finding("missing", f"sandbox: not kept: {t.name} ({t.detail})", remedy(t.name, sandbox.name))
            for t in failed
        ]
    daemon, image = sandbox.daemon, sandbox.image
    return [
        Finding("ok", f"sandbox: {sandbox.name} at {daemon.address}, the runtime being {daemon.runtime_told}"),
        Finding("ok", f"sandbox: {len(tests)} promises tried out and kept; image {image.id} with {image.python}"),
        *[Finding("weak", f"sandbox: {weakness.what}", weakness.action) for weakness in sandbox.weaknesses()],
    ]
