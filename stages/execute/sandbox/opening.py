"""Getting the sandbox that the settings ask for."""

from __future__ import annotations

import os
from pathlib import Path

from millrace.errors import Declined, DeclineReason
from millrace.settings import Settings
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.hierarchies import find_hierarchy
from stages.execute.sandbox.interface import Sandbox
from stages.execute.sandbox.interpreter import examine_interpreter, find_interpreter
from stages.execute.sandbox.launch import CLEAN_ENVIRONMENT
from stages.execute.sandbox.libraries import SHARED_CACHE
from stages.execute.sandbox.seccomp import allow_list_program
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.tools import find_tools, missing_tools


def open_sandbox(settings: Settings) -> Sandbox:
    """The sandbox that the settings ask for, not yet tried out: see `selftest.ensure_working`.

    Raises Declined(no_sandbox) with what helps if it cannot be had here. There is no fallback, least of all to no
    sandbox.
    """
    if settings.sandbox.backend == "wasi":
        from stages.execute.sandbox.wasi.opening import open_wasi

        return open_wasi(settings)
    if settings.sandbox.backend == "docker":
        # Imported here, as the SDK takes tenths of a second to import, which nobody else should pay.
        from stages.execute.sandbox.containers.opening import open_docker

        return open_docker(settings)
    return open_bubblewrap(settings)


def open_bubblewrap(settings: Settings) -> BubblewrapSandbox:
    """The default sandbox. Raises Declined(no_sandbox) with the command that installs what is missing."""
    wanted = settings.sandbox
    if missing := missing_tools(wanted.python):
        raise Declined(
            f"the sandbox lacks {', '.join(what for what, _ in missing)}",
            reason=DeclineReason.no_sandbox,
            hint=install_hint(missing),
        )
    tools, python = find_tools(), find_interpreter(wanted.python)
    assert python is not None
    root, hierarchy = os.geteuid() == 0, find_hierarchy()
    cache = SHARED_CACHE if root else Path(settings.data_dir).resolve() / "sandbox"
    return BubblewrapSandbox(
        tools=tools,
        interpreter=examine_interpreter(python, () if hierarchy else (tools.prlimit,)),
        hierarchy=hierarchy,
        slots=Slots(wanted.first_uid, wanted.slots) if root else None,
        seccomp_program=allow_list_program(),
        environment=dict(CLEAN_ENVIRONMENT),
        cache=cache,
    )


def install_hint(missing: list[tuple[str, str]]) -> str:
    """The command that installs what `missing_tools` listed."""
    packages = sorted({package for _, package in missing if package})
    if packages:
        return f"sudo apt install {' '.join(packages)}"
    return "run on Linux, and set MILLRACE_SANDBOX__PYTHON only to an interpreter that is there"
