"""Fetch the crates that a Rust repository depends on, for a build that has no network.

A first container, as hardened as a build's and like it without network, is given the outline of the repository and runs
cargo, nothing else: no build script, no procedural macro, no configuration of the repository's. What it can reach is a
socket, in a folder that is mounted into it read-only, behind which our proxy lets through to the registry alone. That
folder is the one thing of this machine's that a container of ours ever gets to see; it can write nothing to it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from docker.types import Mount

from millrace.errors import Declined, DeclineReason, Permanent
from stages.compile.builder import Builder
from stages.compile.container import run_container
from stages.compile.dependencies.crates import check_crates
from stages.compile.dependencies.failures import judge
from stages.compile.dependencies.manifests import Outline, outline
from stages.compile.dependencies.proxy import SOCKET, dependency_proxy
from stages.compile.dependencies.rules import RegistryRules, VendorLimits, registry_rules
from stages.compile.limits import BuildLimits
from stages.fetch.git import FetchedSource
from stages.fetch.repository.address import Resolve, system_resolve

__all__ = ["RegistryRules", "VendorLimits", "Vendored", "registry_rules", "vendor"]

_DOOR = "/run/millrace"
_PORT = 3128
_LOG_BYTES = 1024 * 1024
_SCRIPT = Path(__file__).with_name("vendor.sh").read_text()
_ENVIRONMENT = {
    "DOOR": f"{_DOOR}/{SOCKET}",
    "PORT": str(_PORT),
    "CARGO_HOME": "/tmp/cargo",  # noqa: S108 the container's
    "CARGO_HTTP_PROXY": f"http://127.0.0.1:{_PORT}",
    "CARGO_HTTP_TIMEOUT": "20",
    "CARGO_NET_RETRY": "2",
    "CARGO_TERM_COLOR": "never",
    "CARGO_TERM_PROGRESS_WHEN": "never",
    # Without a lock, the newest versions that the compiler at hand can build are taken.
    "CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS": "fallback",
}

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_MOST_AUTHORITIES = 100_000
"""Characters: a variable of the environment has to hold them."""

Listener = Callable[[str], None]


@dataclass(frozen=True)
class Vendored:
    """The crates, as a tar of `vendor/`, a directory source of cargo's, beside the Cargo.lock they were chosen by.

    `packages` are "name version"; `refused` is what was asked for in vain on the way; `network_bytes` went through the
    proxy, both ways. `lock_made` tells that the repository has no lock of its own.
    """

    archive: bytes = field(repr=False)
    lock: bytes = field(repr=False)
    lock_made: bool
    packages: tuple[str, ...]
    network_bytes: int
    seconds: float
    refused: tuple[str, ...]


async def vendor(
    source: FetchedSource,
    limits: VendorLimits | None = None,
    *,
    builder: Builder,
    rules: RegistryRules | None = None,
    on_progress: Listener = lambda line: None,
    resolve: Resolve = system_resolve,
    folder: Path | None = None,
) -> Vendored | None:
    """The crates that the repository depends on; None if there are none, and then no container was needed.

    `archive` of what is returned is what `compile_repository` takes as `vendored`.

    `on_progress` hears what cargo says, and what the proxy refused. `folder` is where the proxy's socket is to lie, if
    Docker sees another /tmp than this process does.

    Raises RepositoryFault where the repository is at fault: a Cargo.toml that is none, a lock that does not fit,
    a crate that does not exist or is not what the lock says. Declined: not_allowed for crates from elsewhere than the
    registry, unsupported for those outside of the repository, too_big beyond `limits`, no_sandbox where gVisor is not
    set up for it. Transient if the registry
    or the engine fails. Permanent if the rules' `ca_file` is no such file.
    """
    rules, limits = rules or RegistryRules(), limits or VendorLimits()
    # Somebody else's TOML takes its time to read.
    seen = await asyncio.to_thread(lambda: outline(_bytes_of(source), limits))
    if seen.empty:
        return None
    _check_runtime(builder)
    authorities = await asyncio.to_thread(_authorities, rules)
    async with dependency_proxy(rules, limits, resolve=resolve, say=on_progress, folder=folder) as proxy:
        ended = await run_container(
            builder.engine,
            ["sh", "-c", _SCRIPT, "sh", *_arguments(seen, rules)],
            stdin=seen.archive,
            limits=_of_container(limits),
            environment={**_ENVIRONMENT, "AUTHORITIES": authorities},
            mounts=[Mount(_DOOR, str(proxy.folder), type="bind", read_only=True, propagation="rprivate")],
            on_log=on_progress,
        )
    judge(ended, proxy.refused, limits)
    locked = await asyncio.to_thread(check_crates, ended.artifact, seen.locked, limits)
    return Vendored(
        archive=ended.artifact,
        lock=locked.content,
        lock_made=seen.locked is None,
        packages=tuple(f"{crate.name} {crate.version}" for crate in locked.crates),
        network_bytes=proxy.carried_bytes,
        seconds=ended.seconds,
        refused=tuple(proxy.refused),
    )


def _check_runtime(builder: Builder) -> None:
    daemon = builder.engine.daemon
    if daemon.gvisor and "host-uds" not in daemon.runtime_told:
        raise Declined(
            f"the runtime {daemon.runtime} lets no container reach the socket that crates come through",
            reason=DeclineReason.no_sandbox,
            hint="add --host-uds=open to its runtimeArgs in /etc/docker/daemon.json; no build is shown any socket",
        )


def _arguments(seen: Outline, rules: RegistryRules) -> list[str]:
    arguments = ["--locked"] if seen.locked is not None else []
    if rules.registry_mirror:
        settings = ('crates-io.replace-with="mirror"', f'mirror.registry="{rules.registry_mirror}"')
        arguments += ["--respect-source-config", *(f"--config=source.{setting}" for setting in settings)]
    return arguments


def _authorities(rules: RegistryRules) -> str:
    """The certificates in the file that the rules name, without what else is in it: a key must not get in."""
    if not rules.ca_file:
        return ""
    try:
        found = _CERTIFICATE.findall(Path(rules.ca_file).read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise Permanent(f"the authorities for the registry cannot be read: {error}", hint="see ca_file") from None
    if not found or sum(map(len, found)) > _MOST_AUTHORITIES:
        raise Permanent(
            f"{rules.ca_file} does not hold the certificates of a few authorities",
            hint="a PEM file of less than 100 kB",
        )
    return "\n".join(found)


def _of_container(limits: VendorLimits) -> BuildLimits:
    return BuildLimits(
        wall_seconds=limits.wall_seconds,
        memory_bytes=limits.memory_bytes,
        cpus=limits.cpus,
        processes=limits.processes,
        scratch_bytes=limits.scratch_bytes,
        artifact_bytes=limits.archive_bytes,
        log_bytes=_LOG_BYTES,
    )


def _bytes_of(source: FetchedSource) -> bytes:
    return source.archive if source.path is None else source.path.read_bytes()
