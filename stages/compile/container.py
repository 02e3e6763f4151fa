"""One container of the builder image: a command and bytes for it to read, its artifact and its log."""

from __future__ import annotations

import asyncio
import codecs
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from docker import APIClient
from docker.errors import DockerException, ImageNotFound
from docker.types import Mount
from requests import RequestException

from millrace.errors import Transient
from millrace.text import printable
from stages.compile.limits import BuildLimits
from stages.execute.beside import beside_the_loop
from stages.execute.sandbox.containers.attached import Attached
from stages.execute.sandbox.containers.daemon import Daemon, declined
from stages.execute.sandbox.containers.image import Image
from stages.execute.sandbox.containers.leftovers import sweep_containers
from stages.execute.sandbox.containers.life import ended, out_of_memory, removed
from stages.execute.sandbox.containers.meter import Meter
from stages.execute.sandbox.containers.options import hardened_options
from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.streams import Kept
from stages.execute.sandbox.supervisor import Ending as Watched

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 the container's
"""All that a command sees of variables, unless it is given more."""

_FIRST_SIGNAL_CODE = 129
_LONGEST_LINE = 500
_MOST_LINES = 5_000
"""How many are told: a log of nothing but line ends would keep the event loop busy for seconds."""

Listener = Callable[[str], None]
"""Is told the log's lines as they come."""


class Ending(StrEnum):
    """How a container ended. All of them are the repository's doing: a fault of ours is an EngineFault instead."""

    ok = "ok"
    exit = "exit"  # another exit code than 0
    killed = "killed"  # its command ended by a signal that it brought upon itself
    timeout = "timeout"
    oom = "oom"
    output_limit = "output_limit"  # its artifact or its log was longer than is taken


class EngineFault(Transient):
    """The engine failed, or the container was stopped on purpose; the repository has not been judged."""


@dataclass(frozen=True)
class Engine:
    """What containers are made with: a daemon and its runtime, an image by its id, and user ids."""

    daemon: Daemon
    image: Image
    slots: Slots


@dataclass(frozen=True)
class Ended:
    """What became of one container.

    `exit_code` is None where we killed it. `artifact` is its standard output and `log` its standard error, each as
    far as it is taken; `too_long` names the one that was longer. What was used is None where it cannot be measured.
    """

    ending: Ending
    exit_code: int | None
    artifact: bytes
    log: bytes
    too_long: str
    seconds: float
    peak_memory_bytes: int | None
    cpu_seconds: float | None


async def run_container(
    engine: Engine,
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    limits: BuildLimits,
    environment: Mapping[str, str] | None = None,
    mounts: Sequence[Mount] = (),
    on_log: Listener | None = None,
) -> Ended:
    """Run `command` in a new container, without network, as a user of its own who can write to /tmp alone.

    `environment` comes on top of ENVIRONMENT. `on_log` is called on the event loop, with lines that are safe to print.
    The container is gone when this returns or raises, also when the task is cancelled; one whose process was killed is
    removed by whoever runs the next. Raises EngineFault; Declined (no_sandbox) if the image was removed.
    """
    loop = asyncio.get_running_loop()
    tell = None if on_log is None else (lambda line: _threadsafe(loop, on_log, line))
    asked = _Asked(tuple(command), stdin, limits, {**ENVIRONMENT, **(environment or {})}, tuple(mounts), tell)
    return await beside_the_loop(lambda cancel: _run(engine, asked, cancel))


@dataclass(frozen=True)
class _Asked:
    command: tuple[str, ...]
    stdin: bytes
    limits: BuildLimits
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    tell: Listener | None


class _Log(Kept):
    """Standard error, and whoever listens to its lines."""

    def __init__(self, limit_bytes: int, tell: Listener | None) -> None:
        super().__init__(limit_bytes)
        self._tell = tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._told = 0

    def take(self, chunk: bytes | memoryview) -> None:
        """Keep `chunk`, and tell the lines that it ends."""
        super().take(chunk)
        if self._tell is None or self._told >= _MOST_LINES:
            return
        *lines, rest = (self._line + self._decoder.decode(bytes(chunk))).split("\n")
        for line in lines[: _MOST_LINES - self._told]:
            self._tell(printable(line, _LONGEST_LINE))
            self._told += 1
        # Of a line that does not end, as much is kept as is told of it.
        self._line = rest[: _LONGEST_LINE + 1]


def _run(engine: Engine, asked: _Asked, cancel: threading.Event) -> Ended:
    try:
        with engine.daemon.connect() as api, engine.slots.acquire() as uid:
            # Nothing of Docker's dies with its worker; so whoever comes next cleans up.
            sweep_containers(api)
            return _run_as(api, uid, engine, asked, cancel)
    except ImageNotFound as error:
        raise declined(
            f"the builder image {engine.image.short_id} was removed", "make it anew, or name another"
        ) from error
    except (OSError, DockerException, RequestException) as error:
        raise EngineFault(
            f"no container could be run: {type(error).__name__}: {error}",
            hint="does Docker run, and has its disk room? `docker info` and `df` say more",
        ) from error


def _run_as(api: APIClient, uid: int, engine: Engine, asked: _Asked, cancel: threading.Event) -> Ended:
    name, limits = new_name(), asked.limits
    meter = _meter(engine.daemon, uid)
    options = hardened_options(
        api,
        engine.daemon,
        engine.image,
        asked.command,
        limits.of_container(),
        name=name,
        uid=uid,
        environment=asked.environment,
        mounts=asked.mounts,
        meter=meter,
    )
    artifact, log = Kept(limits.artifact_bytes), _Log(limits.log_bytes, asked.tell)
    with removed(api, name):
        api.create_container(**options)
        with Attached(api, name, asked.stdin, artifact, log) as streams:
            began = time.monotonic()
            api.start(name)
            watched = streams.watch(time.monotonic() + limits.wall_seconds, cancel)
            seconds = time.monotonic() - began
        state = ended(api, name, kill=watched is not Watched.exited)
        if watched is Watched.cancelled:
            raise EngineFault("the build was stopped on purpose")
        if not state:
            raise EngineFault("a process of the build could not be killed", hint="`dmesg` may say which device hangs")
        ending = _judged(api, name, watched, state)
        return Ended(
            ending=ending,
            exit_code=int(state["ExitCode"]) if ending in (Ending.ok, Ending.exit, Ending.killed) else None,
            artifact=bytes(artifact.kept),
            log=bytes(log.kept),
            too_long="artifact" if artifact.cut else "log" if log.cut else "",
            seconds=round(seconds, 3),
            peak_memory_bytes=meter.peak_memory_bytes() if meter else None,
            cpu_seconds=meter.cpu_seconds() if meter else None,
        )


def _judged(api: APIClient, name: str, watched: Watched, state: dict[str, Any]) -> Ending:
    if watched is Watched.timeout:
        return Ending.timeout
    if watched is Watched.output_limit:
        return Ending.output_limit
    code = state["ExitCode"]
    if code == 0:
        return Ending.ok
    # A compiler that was killed for its memory fails its build with an exit code of the build's own.
    if out_of_memory(api, name, state, any_failure=True):
        return Ending.oom
    return Ending.killed if code >= _FIRST_SIGNAL_CODE else Ending.exit


def _meter(daemon: Daemon, uid: int) -> Meter | None:
    """What counts for the container of that user id, at zero."""
    meter = Meter(daemon.meters, uid) if daemon.meters else None
    return meter if meter and meter.reset() else None


def _threadsafe(loop: asyncio.AbstractEventLoop, listener: Listener, line: str) -> None:
    loop.call_soon_threadsafe(listener, line)
