"""What happens in the process that a flow run is forked into, and what is imported before there is one.

A process that starts Python anew spends most of its time on imports. Here they are done once, in multiprocessing's
fork server: a process without threads, from which each flow run begins as a copy.
"""

from __future__ import annotations

import atexit
import importlib
import io
import os
import runpy
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flows.lease import hand_on_leases, hold_lease
from millrace.errors import Permanent
from millrace.settings import load_settings

PRELOADED = (
    # What `python -m prefect.engine` imports before and while it runs a flow with tasks.
    "prefect.main",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.task_runners",
    "prefect.client.orchestration",
    "prefect.deployments.steps",
    "prefect.events.worker",
    "prefect.logging.handlers",
    "prefect.utilities.visualization",
    "anyio._backends._asyncio",
    # Our flows, and with them everything below.
    "flows.adhoc",
    "flows.cloudmesh",
    "flows.computechain",
    "flows.coordinator",
    "flows.offchainvm",
    "flows.reconcile",
    "flows.validator",
    "flows.watch",
    "deployments.warm_baseline",  # the last: it sets aside what was imported before it
)

_COLD_PREFIXES = ("PYTHON", "LD_", "LANG", "LC_", "TZ", "MALLOC_", "OMP_")
"""Variables that only a new process heeds: they are read when the interpreter or a library starts."""


@dataclass(frozen=True)
class FlowRunStart:
    """One flow run as the job template wants it started."""

    flow_run_id: str
    environment: Mapping[str, str]
    """All of it: what is not here is not set."""
    working_dir: str
    command: str = ""
    """What the template has instead of Prefect's engine, if anything."""
    stream_output: bool = True


def ensure_preloaded() -> None:
    """Return if the fork server has imported everything; it keeps silent about what it could not.

    Raises ImportError with what is wrong.
    """
    missing = [name for name in PRELOADED if name not in sys.modules]
    for name in missing:
        importlib.import_module(name)
    if missing:
        raise ImportError(f"the fork server could not import {', '.join(missing)}")


def start_flow_run(start: FlowRunStart) -> None:
    """Become the process of this flow run; returns when the flow run has ended, exits with another code if it failed.

    Starts Python anew if the template asks for what a process that runs already cannot give: a command of its own,
    or other settings of Prefect or of the interpreter than those that were imported.
    """
    _leave_the_terminal(stream_output=start.stream_output)
    os.chdir(start.working_dir)
    why = _cold_because(start)
    # From before the server hears that it runs: one that is killed without a lease counts as another machine's.
    with _lease_of(start.flow_run_id):
        if why:
            sys.stderr.write(f"flow run {start.flow_run_id} starts Python anew: {why}\n")
            command = shlex.split(start.command) or [sys.executable, "-m", "prefect.engine"]
            hand_on_leases()
            os.execvpe(command[0], command, dict(start.environment))  # noqa: S606
        try:
            _run_engine(start)
        finally:
            # A child of multiprocessing skips them, and with them the logs and events that Prefect has yet to send.
            atexit._run_exitfuncs()


@contextmanager
def _lease_of(flow_run_id: str) -> Iterator[None]:
    """Hold the flow run's lease; none is held where the settings do not say in which folder, which its flow tells."""
    try:
        folder = load_settings().data_dir / "leases"
    except Permanent:
        yield
        return
    with hold_lease(folder, flow_run_id):
        yield


def _cold_because(start: FlowRunStart) -> str:
    """Take over the flow run's environment; why a process that runs already cannot, empty if it can."""
    had, wanted = {**os.environ, **_prefect_variables()}, start.environment
    changed = sorted(name for name in {*had, *wanted} if wanted.get(name) != had.get(name))
    os.environ.clear()
    os.environ.update(wanted)
    if start.command:
        return "its job template has a command"
    if cold := [name for name in changed if name.startswith(_COLD_PREFIXES)]:
        return f"its environment has another {', '.join(cold)}"
    # What begins with two underlines is about the flow run, and read when it is needed.
    settings = [name for name in changed if name.startswith("PREFECT_") and not name.startswith("PREFECT__")]
    if settings and _prefect_reads_other_settings():
        return f"its settings of Prefect differ: {', '.join(settings)}"
    return ""


def _run_engine(start: FlowRunStart) -> None:
    """Do what `python -m prefect.engine` does."""
    sys.path.insert(0, start.working_dir)
    sys.argv = ["prefect.engine", start.flow_run_id]
    sys.modules.pop("prefect.engine", None)  # else runpy warns that it is there already
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _leave_the_terminal(*, stream_output: bool) -> None:
    """A session of its own: Ctrl-C is the worker's to handle, which lets flow runs end first."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is printed is seen at once, and outlives a SIGKILL
    if not stream_output:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def _prefect_variables() -> dict[str, str]:
    from deployments.warm_baseline import VARIABLES

    return VARIABLES


def _prefect_reads_other_settings() -> bool:
    """Whether Prefect, reading the environment again, finds settings other than those that were imported."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    before = get_current_settings()
    refresh_global_settings_context()
    return get_current_settings() != before
