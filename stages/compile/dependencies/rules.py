"""Where crates may come from, and how much of them."""

from __future__ import annotations

import re
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from millrace.errors import Permanent
from millrace.limits import MIB
from millrace.settings import Settings
from millrace.text import faults_in

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]):[0-9]{1,5}", re.ASCII)
_MIRROR = re.compile(r"sparse\+https?://[A-Za-z0-9._~:/\[\]-]+/", re.ASCII)
_PORTS = {"https": 443, "http": 80}


class RegistryRules(BaseModel):
    """Which hosts the first container may reach, through the proxy, and nothing else."""

    model_config = ConfigDict(frozen=True)

    hosts: tuple[str, ...] = Field(
        default=("index.crates.io:443", "static.crates.io:443"), description="host:port, exactly; nothing below them"
    )
    registry_mirror: str = Field(
        default="",
        description="A copy of crates.io to ask instead, as sparse+https://host/path/; the hosts its downloads come "
        "from, if others, belong in `hosts`",
    )
    allow_private: bool = Field(
        default=False, description="Private addresses too: for a mirror in one's own network, or a stand-in"
    )

    ca_file: str = Field(
        default="", description="PEM file of the authorities to believe for https; empty: those of the builder image"
    )

    @field_validator("hosts")
    @classmethod
    def _exact(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not host:port, in lower case")
        return hosts

    @field_validator("registry_mirror")
    @classmethod
    def _sparse(cls, mirror: str) -> str:
        if mirror and not _MIRROR.fullmatch(mirror):
            raise ValueError("a mirror is sparse+https://host/path/, with the slash and without a password")
        return mirror

    @cached_property
    def allowed(self) -> frozenset[str]:
        """Every host:port that may be reached: a mirror takes the place of crates.io, whose hosts then need a mention.

        Only `hosts` that were set count beside a mirror.
        """
        if not self.registry_mirror:
            return frozenset(self.hosts)
        parts = urlsplit(self.registry_mirror.removeprefix("sparse+"))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        own = f"{host}:{parts.port or _PORTS[parts.scheme]}"
        return frozenset({own, *(self.hosts if "hosts" in self.model_fields_set else ())})


def registry_rules(settings: Settings) -> RegistryRules:
    """The rules that the settings make. Raises Permanent if they cannot be meant."""
    wanted = settings.compile
    hosts = {"hosts": wanted.registry_hosts} if wanted.registry_hosts else {}
    try:
        return RegistryRules(
            registry_mirror=wanted.registry_mirror,
            ca_file=wanted.registry_ca_file,
            allow_private=wanted.allow_private_registry,
            **hosts,
        )
    except ValidationError as error:
        raise Permanent(
            f"where crates come from cannot be told: {faults_in(error)}", hint="see MILLRACE_COMPILE__REGISTRY_*"
        ) from None


class VendorLimits(BaseModel):
    """Upper bounds for fetching what one repository depends on."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    wall_seconds: float = Field(default=120.0, gt=0, description="Of the first container")
    cpus: float = Field(default=1.0, gt=0, description="CPU bandwidth, in cores")
    memory_bytes: int = Field(default=1536 * MIB, gt=0, description="Of the container, its scratch space included")
    processes: int = Field(default=256, gt=0, description="Processes and threads alive at once")
    scratch_bytes: int = Field(default=1024 * MIB, gt=0, description="Of what cargo keeps and unpacks")
    network_bytes: int = Field(default=256 * MIB, gt=0, description="Through the proxy, both ways together")
    connections: int = Field(default=10_000, gt=0, description="Through the proxy, one after the other")
    connections_at_once: int = Field(default=64, gt=0, description="Through the proxy")
    idle_seconds: float = Field(default=30.0, gt=0, description="Before a connection that carries nothing is closed")
    archive_bytes: int = Field(default=384 * MIB, gt=0, description="Of all crates together, unpacked, as one tar")
    files: int = Field(default=60_000, gt=0, description="Files and directories of all crates together")
    packages: int = Field(default=1_000, gt=0, description="Crates")
    manifest_bytes: int = Field(default=256 * 1024, gt=0, description="Of one Cargo.toml")
    manifests: int = Field(default=200, gt=0, description="Cargo.toml files of the repository")
    manifests_bytes: int = Field(default=4 * MIB, gt=0, description="Of all of them together")
    lock_bytes: int = Field(default=MIB, gt=0, description="Of Cargo.lock")
