"""The Docker daemon of this machine: how it is reached, and what it says it can do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import DockerException

from millrace.errors import Declined, DeclineReason
from millrace.settings import SandboxSettings
from stages.execute.sandbox.containers.meter import meters_for

USUAL_ADDRESS = "unix:///var/run/docker.sock"
API_VERSION = "1.41"
"""Docker 20.10's, and still spoken by every later one."""

_PATIENCE_SECONDS = 60
_NAMED_LIMITS = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU share"}


@dataclass(frozen=True)
class Daemon:
    """A daemon that answered, and the runtime that jobs are to run under.

    `runtime_told` is what the daemon says that runtime is: its program and its arguments. `unlimited` names what the
    daemon cannot limit on this machine. `meters` is where control groups can be put around its own, None if nowhere.
    """

    address: str
    version: str
    runtime: str
    runtime_told: str
    unlimited: tuple[str, ...]
    meters: Path | None = None

    @property
    def gvisor(self) -> bool:
        """Whether the runtime is gVisor, whose own kernel answers the job's system calls."""
        return "runsc" in self.runtime_told

    @contextmanager
    def connect(self) -> Iterator[APIClient]:
        """A connection for one task: shared ones do not survive the worker's forks. DockerException or OSError."""
        client = APIClient(base_url=self.address, version=API_VERSION, timeout=_PATIENCE_SECONDS)
        try:
            yield client
        finally:
            client.close()


def find_daemon(wanted: SandboxSettings, instead: str = "set MILLRACE_SANDBOX__BACKEND=bubblewrap") -> Daemon:
    """The daemon that the settings name; `instead` is what a person can do who has none.

    Raises Declined(no_sandbox) with what helps if it does not answer, has no such runtime, or filters no system calls.
    """
    address = wanted.docker_host or os.environ.get("DOCKER_HOST") or USUAL_ADDRESS
    if not address.startswith("unix://"):
        # Half-closing standard input and sweeping by process id both need the same machine.
        raise declined(f"the Docker daemon at {address} is not on this machine", "set DOCKER_HOST to unix://<socket>")
    unasked = Daemon(address, "", wanted.runtime, "", ())
    try:
        with unasked.connect() as api:
            told: dict[str, Any] = api.info()
    except (DockerException, OSError) as error:
        raise declined(f"no Docker daemon answers at {address}: {error}", _start_hint(address, instead)) from error
    if not any("seccomp" in option for option in told.get("SecurityOptions") or []):
        raise declined(f"the Docker daemon at {address} filters no system calls", "use a kernel and a Docker with it")
    return Daemon(
        address=address,
        version=str(told["ServerVersion"]),
        runtime=wanted.runtime,
        runtime_told=_runtime_told(told, wanted.runtime),
        unlimited=tuple(name for key, name in _NAMED_LIMITS.items() if not told.get(key)),
        meters=meters_for(told),
    )


def declined(what: str, hint: str) -> Declined:
    """The refusal to run anything because `what`."""
    return Declined(what, reason=DeclineReason.no_sandbox, hint=hint)


def _runtime_told(told: dict[str, Any], name: str) -> str:
    runtimes: dict[str, Any] = told.get("Runtimes") or {}
    if name not in runtimes:
        raise declined(
            f"the Docker daemon has no runtime {name}, only {', '.join(sorted(runtimes))}",
            "docs/sandbox.md says how to install gVisor and name it in /etc/docker/daemon.json",
        )
    about = runtimes[name]
    program = about.get("path") or about.get("runtimeType") or name
    return " ".join([str(program), *map(str, about.get("runtimeArgs") or [])])


def _start_hint(address: str, instead: str) -> str:
    return (
        f"sudo apt install docker.io, and let this user use its socket; or {instead}"
        if address == USUAL_ADDRESS
        else "start it, or set MILLRACE_SANDBOX__DOCKER_HOST (or DOCKER_HOST) to its socket"
    )
