"""What the machine lacks, named with the one command that installs it, before anything is started."""

from __future__ import annotations

import sys

from rich.console import Console

from millrace.errors import Declined
from millrace.settings import load_settings
from stages.execute.sandbox import missing_tools, open_sandbox


def missing(console: Console) -> bool:
    """Print what jobs cannot run without; True if there is anything."""
    if sys.platform != "linux":
        console.print("jobs run in a Linux sandbox, and this is not Linux", style="red")
        return True
    if tools := missing_tools():
        packages = " ".join(dict.fromkeys(package for _, package in tools))
        console.print(f"missing: {', '.join(what for what, _ in tools)}", style="red", markup=False)
        console.print(f"install it with: apt-get install -y --no-install-recommends {packages}", markup=False)
        return True
    try:
        failed = [check for check in open_sandbox(load_settings()).self_test() if not check.passed]
    except Declined as error:
        console.print(str(error), style="red", markup=False)
        return True
    for check in failed:
        console.print(f"the sandbox does not hold here: {check.name}: {check.detail}", style="red", markup=False)
    return bool(failed)
