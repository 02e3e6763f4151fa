"""What `millrace doctor` has to say about compiling."""

from __future__ import annotations

from millrace.errors import Declined
from millrace.finding import Finding
from millrace.settings import Settings
from stages.compile.builder import open_builder


async def diagnose_builder(settings: Settings) -> list[Finding]:
    """Try the builder out, if an image for it is named: who serves no network that compiles needs none."""
    if not settings.compile.image:
        return []
    try:
        builder = await open_builder(settings)
    except Declined as error:
        return [Finding("missing", f"compile: {error.message}", error.hint)]
    daemon = builder.engine.daemon
    made = [("Rust", builder.rust_targets), ("C", builder.c_targets)]
    built = "; ".join(f"{language} for {', '.join(sorted(targets))}" for language, targets in made if targets)
    findings = [Finding("ok", f"compile: {builder.name}"), Finding("ok", f"compile: builds {built}")]
    if not daemon.gvisor:
        what = "runc alone: builds share the machine's kernel, so a flaw in it is a way out"
        action = "install gVisor and set MILLRACE_COMPILE__RUNTIME=runsc; docs/sandbox.md says how"
        findings.append(Finding("weak", f"compile: {what}", action))
    findings += [
        Finding("weak", f"compile: this machine cannot limit a build's {what}", "`docker info` says which part is off")
        for what in daemon.unlimited
    ]
    return findings
