"""Getting the `wasi` back end as this machine can have it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from millrace.errors import Declined, DeclineReason
from millrace.settings import Settings
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.wasi.build import find_build, folder_of
from stages.execute.sandbox.wasi.compiled import CompiledModule
from stages.execute.sandbox.wasi.sandbox import WasiSandbox
from stages.execute.sandbox.wasi.system_calls import engine_filter

_CAP_SETGID, _CAP_SETUID = 6, 7


def open_wasi(settings: Settings) -> WasiSandbox:
    """The back end, not yet tried out. Raises Declined(no_sandbox) if no build of Python is there."""
    if sys.platform != "linux":
        raise Declined("the sandbox needs a Linux kernel", reason=DeclineReason.no_sandbox, hint="run on Linux")
    wanted = settings.sandbox
    return WasiSandbox(
        compiled=CompiledModule(find_build(settings), folder_of(settings)),
        slots=Slots(wanted.first_uid, wanted.slots) if may_become_others() else None,
        seccomp_program=_filter(),
    )


def may_become_others() -> bool:
    """A container's root often may not: its user id alone does not tell."""
    if os.geteuid() != 0:
        return False
    lines = Path("/proc/self/status").read_text().splitlines()
    capabilities = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff")), 0)
    needed = 1 << _CAP_SETGID | 1 << _CAP_SETUID
    return capabilities & needed == needed


def _filter() -> bytes | None:
    try:
        return engine_filter()
    except (ImportError, OSError, RuntimeError):
        return None
