"""Where strangers' Python runs: a process that can reach nothing of the worker's."""

from __future__ import annotations

from stages.execute.sandbox.interface import Check, Outcome, Sandbox, SandboxFault, Spec, Status
from stages.execute.sandbox.opening import open_sandbox
from stages.execute.sandbox.tools import missing_tools

__all__ = [
    "Check",
    "Outcome",
    "Sandbox",
    "SandboxFault",
    "Spec",
    "Status",
    "missing_tools",
    "open_sandbox",
]
