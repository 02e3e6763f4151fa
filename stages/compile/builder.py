"""The builder: an engine and a pinned image, tried out before the first repository."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from docker.errors import DockerException
from requests import RequestException

from millrace.errors import Declined, DeclineReason
from millrace.limits import MIB
from millrace.settings import Settings
from millrace.text import printable
from stages.compile.container import Ended, Ending, Engine, EngineFault, run_container
from stages.compile.limits import BuildLimits
from stages.compile.target import BuildTarget
from stages.execute.sandbox.containers.daemon import Daemon, declined, find_daemon
from stages.execute.sandbox.containers.image import Image, pinned_image
from stages.execute.sandbox.containers.leftovers import sweep_containers
from stages.execute.sandbox.slots import LOCK_FOLDER, Slots

PROBE = Path(__file__).with_name("probe.sh").read_text()
"""What the trial runs in a container."""
_PROBE_LIMITS = BuildLimits(wall_seconds=120, memory_bytes=1024 * MIB, scratch_bytes=128 * MIB)
_VARIABLE = "MILLRACE_COMPILE__IMAGE"
_HOW_TO_GET_ONE = "docs/offchainvm.md says how to make one: deployments/images/wasm-builder"
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd")


@dataclass(frozen=True)
class Builder:
    """What repositories are compiled with, and what it can compile, by trial."""

    engine: Engine
    rustc: str
    clang: str
    rust_targets: frozenset[BuildTarget]
    c_targets: frozenset[BuildTarget]

    @property
    def name(self) -> str:
        """As receipts show it."""
        daemon, image = self.engine.daemon, self.engine.image
        tools = ", ".join(tool for tool in (self.rustc, self.clang) if tool)
        return f"docker {daemon.version} {daemon.runtime}, {tools}, image {image.short_id}"

    def sweep(self) -> list[str]:
        """Remove the containers of workers that are gone. Raises Declined if the daemon does not answer any more."""
        try:
            with self.engine.daemon.connect() as api:
                return sweep_containers(api)
        except (OSError, DockerException, RequestException) as error:
            raise declined(f"the Docker daemon stopped answering: {error}", "start it again") from error


def build_limits(settings: Settings) -> BuildLimits:
    """The limits that the settings set for one build."""
    wanted = settings.compile
    return BuildLimits(
        wall_seconds=wanted.timeout_seconds, memory_bytes=wanted.memory_limit_mb * MIB, cpus=wanted.cpu_limit
    )


def image_digest(settings: Settings) -> str:
    """The digest of the builder image that the settings name; Declined (no_sandbox) as `open_builder`."""
    return find_engine(settings).image.id


async def open_builder(settings: Settings) -> Builder:
    """The builder that the settings name, after it has shown what it builds and that its containers hold.

    Removes what killed workers left behind. Takes a few seconds. Raises Declined (no_sandbox) with what helps where
    there is no engine, no image, or only a name for one that can move to another, and where a container of it fails.
    """
    engine = await asyncio.to_thread(find_engine, settings)
    try:
        probed = await run_container(engine, ["sh", "-c", PROBE], limits=_PROBE_LIMITS)
    except EngineFault as fault:
        raise declined(f"no container of the builder image can be run: {fault.message}", _HOW_TO_GET_ONE) from fault
    if probed.ending is not Ending.ok:
        raise declined(f"the builder image cannot be used: {_last_words(probed)}", _HOW_TO_GET_ONE)
    told = _told(probed.artifact)
    if broken := _broken_promises(told, engine):
        raise declined(f"a build's container does not keep {', '.join(broken)}", "docs/sandbox.md says what it needs")
    builder = Builder(
        engine=engine,
        rustc="".join(told.get("rustc", [])),
        clang="".join(told.get("clang", [])),
        rust_targets=_targets(told.get("rust", [])) if "native" in told else frozenset(),
        c_targets=_targets(told.get("c", [])),
    )
    if not builder.rust_targets and not builder.c_targets:
        raise declined(f"the image {engine.image.short_id} builds nothing: {_last_words(probed)}", _HOW_TO_GET_ONE)
    return builder


def find_engine(settings: Settings) -> Engine:
    """The engine and image that the settings name, not tried out. Declined (no_sandbox) as `open_builder`."""
    wanted = settings.compile
    daemon = find_daemon(
        settings.sandbox.model_copy(update={"runtime": wanted.runtime}), "serve no network that compiles"
    )
    if not wanted.image:
        raise declined("no builder image is named", f"set {_VARIABLE} (or DOCKER_IMAGE); {_HOW_TO_GET_ONE}")
    image = _find_image(daemon, wanted.image)
    # Whoever may use the daemon is root in all but name; only the locks of the slots need a folder of our own.
    folder = LOCK_FOLDER if os.geteuid() == 0 else settings.data_dir.absolute() / "state" / "slots"
    return Engine(daemon, image, Slots(settings.sandbox.first_uid, settings.sandbox.slots, folder))


def _find_image(daemon: Daemon, reference: str) -> Image:
    try:
        with daemon.connect() as api:
            return pinned_image(api, reference, None, _VARIABLE)
    except Declined as error:
        raise Declined(
            error.message, reason=DeclineReason.no_sandbox, hint=f"{error.hint}; {_HOW_TO_GET_ONE}"
        ) from error
    except (DockerException, OSError, RequestException) as error:
        raise declined(f"the builder image cannot be looked up: {error}", "is the Docker daemon running?") from error


def _told(output: bytes) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for line in output.decode(errors="replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            told.setdefault(name, []).append(printable(value, 200))
    return told


def _broken_promises(told: dict[str, list[str]], engine: Engine) -> list[str]:
    """Which of the things that must hold in a container did not, in the words of a person."""
    slots, gvisor = engine.slots, engine.daemon.gvisor
    uids = {str(uid) for uid in range(slots.first_uid, slots.first_uid + slots.count)}
    kept = {
        "its own user": {*told.get("uid", ["?"]), *told.get("gid", ["?"])} <= uids,
        "no capabilities": not any(int(value, 16) for name in _CAPABILITIES for value in told.get(name, ["1"])),
        # gVisor's kernel gives new privileges to nobody, and does not tell.
        "no new privileges": told.get("NoNewPrivs", ["1"] if gvisor else []) == ["1"],
        "filtered system calls": told.get("Seccomp") == ["2"],
        "no network": set(told.get("interface", [])) <= {"lo"},
        "a root that cannot be written to": "writable" not in told,
    }
    return [promise for promise, holds in kept.items() if not holds]


def _targets(names: list[str]) -> frozenset[BuildTarget]:
    return frozenset(BuildTarget(name) for name in names)


def _last_words(probed: Ended) -> str:
    lines = probed.log.decode(errors="replace").strip().splitlines()
    return printable(lines[-1], 300) if lines else f"{probed.ending} (exit code {probed.exit_code})"
