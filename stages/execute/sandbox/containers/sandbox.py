"""The sandbox of containers: Docker with runc or gVisor, our filter of system calls, and a user of its own."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from docker import APIClient
from docker.errors import DockerException

from millrace.limits import Usage
from stages.execute.sandbox import selftest
from stages.execute.sandbox.arguments import ENVIRONMENT, PROGRAM
from stages.execute.sandbox.containers.attached import Attached
from stages.execute.sandbox.containers.daemon import Daemon, declined
from stages.execute.sandbox.containers.image import Image
from stages.execute.sandbox.containers.leftovers import sweep_containers
from stages.execute.sandbox.containers.life import ended, out_of_memory, removed
from stages.execute.sandbox.containers.meter import Meter
from stages.execute.sandbox.containers.options import container_options, program_archive, seccomp_profile
from stages.execute.sandbox.interface import Check, Outcome, Spec, Status
from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.slots import LOCK_FOLDER, Slots
from stages.execute.sandbox.streams import Kept
from stages.execute.sandbox.supervisor import Ending
from stages.execute.sandbox.verdict import Observation, judge


@dataclass(frozen=True)
class Weakness:
    """What is weaker than it could be, and what can be done about it."""

    what: str
    action: str


@dataclass(frozen=True)
class DockerSandbox:
    """Runs each program in a container of its own, which is removed afterwards."""

    daemon: Daemon
    image: Image
    slots: Slots

    @property
    def name(self) -> str:
        """As receipts show it."""
        python = f"Python {self.image.version}, " if self.image.version else ""
        return f"docker {self.daemon.version} {self.daemon.runtime}, {python}image {self.image.short_id}"

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        """Run one program and wait for its end. A fault of ours is an Outcome too; see `Sandbox.run`."""
        try:
            with self.daemon.connect() as api, self.slots.acquire() as uid:
                return self._run(api, uid, spec, cancel)
        except (OSError, DockerException) as error:
            return Outcome(Status.sandbox_error, None, backend=self.name, detail=f"{type(error).__name__}: {error}")

    def self_test(self) -> list[Check]:
        """Try the promises out on this machine."""
        return selftest.check(self, grouped=True, expected=self._expected())

    def sweep(self) -> list[str]:
        """Remove the containers of workers that are gone. Raises Declined if the daemon does not answer any more."""
        try:
            with self.daemon.connect() as api:
                return sweep_containers(api)
        except (OSError, DockerException) as error:
            raise declined(f"the Docker daemon stopped answering: {error}", "start it again") from error

    def describe(self) -> list[str]:
        """What is weaker here than gVisor as root would be."""
        return [weakness.what for weakness in self.weaknesses()]

    def weaknesses(self) -> list[Weakness]:
        """The same, each with what can be done about it."""
        weak = [_GVISOR if self.daemon.gvisor else _RUNC]
        weak += [replace(_UNLIMITED, what=f"{_UNLIMITED.what} {what}") for what in self.daemon.unlimited]
        weak += [_OWN_SLOTS] if self.slots.folder != LOCK_FOLDER else []
        return [*weak, *([_UNMEASURED] if self.daemon.meters is None else [])]

    def fingerprint(self) -> str:
        """Everything that the self-test's verdict depends on, except the running kernel."""
        profile = hashlib.sha256(seccomp_profile(self.daemon).encode()).hexdigest()
        return repr((self.daemon, self.image.id, self.image.python, self.slots, profile))

    def _expected(self) -> selftest.Expected:
        return selftest.Expected(
            root=self.image.root,
            first_environment=frozenset(f"{name}={value}" for name, value in ENVIRONMENT.items()),
            tells_no_new_privileges=not self.daemon.gvisor,
            counts_processes=not self.daemon.gvisor,
        )

    def _meter(self, uid: int) -> Meter | None:
        """What counts for the container of that user id, at zero."""
        meter = Meter(self.daemon.meters, uid) if self.daemon.meters else None
        return meter if meter and meter.reset() else None

    def _run(self, api: APIClient, uid: int, spec: Spec, cancel: threading.Event | None) -> Outcome:
        # Nothing of Docker's dies with its worker; so whoever comes next cleans up.
        sweep_containers(api)
        name, limits = new_name(), spec.limits
        meter = self._meter(uid)
        options = container_options(api, self.daemon, self.image, limits, name=name, uid=uid, meter=meter)
        with removed(api, name):
            api.create_container(**options)
            api.put_archive(name, str(PurePosixPath(PROGRAM).parent), program_archive(spec.program))
            with Attached(api, name, spec.stdin, Kept(limits.output_bytes), Kept(limits.output_bytes)) as streams:
                began = time.monotonic()
                api.start(name)
                # The job's time begins when it does: a start takes tenths of a second, under gVisor more.
                ending = streams.watch(time.monotonic() + limits.wall_seconds, cancel)
                wall_seconds = time.monotonic() - began
            state = ended(api, name, kill=ending is not Ending.exited)
            oom = ending is Ending.exited and out_of_memory(api, name, state)
            observation = Observation(
                ending=ending,
                exit_code=state.get("ExitCode"),
                oom_kills=int(oom),
                dead=bool(state),
                stdout=streams.stdout,
                stderr=streams.stderr,
                usage=Usage(
                    wall_seconds=round(wall_seconds, 6),
                    cpu_seconds=meter.cpu_seconds() if meter else None,
                    peak_memory_bytes=meter.peak_memory_bytes() if meter else None,
                    stdout_bytes=len(streams.stdout.kept),
                    stderr_bytes=len(streams.stderr.kept),
                ),
            )
        return judge(observation, limits, self.name)


_RUNC = Weakness(
    "runc alone: containers share the machine's kernel, so a flaw in one of the system calls on our list is a way out; "
    "under gVisor (runsc) a kernel of its own answers them",
    "install gVisor and set MILLRACE_SANDBOX__RUNTIME=runsc; docs/sandbox.md says how",
)
_GVISOR = Weakness(
    "under gVisor a job's processes are counted only roughly, its memory being their bound, and 64 MiB are added to "
    "that for gVisor itself",
    "nothing needs to be done: the machine is protected all the same",
)
_UNLIMITED = Weakness("the Docker daemon says that this machine cannot limit", "`docker info` says which part is off")
_OWN_SLOTS = Weakness(
    "this user's workers keep their jobs' user ids apart, but not from those of other users' workers on this machine",
    "run one user's workers on a machine, or run them as root",
)
_UNMEASURED = Weakness(
    "CPU time and peak memory of a job are not measured: Docker forgets them with the container",
    "they are where the worker is root and Docker's control groups are of version 1 and its own (cgroupfs)",
)
