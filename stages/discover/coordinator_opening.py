"""The coordinator as the settings describe it."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from millrace.errors import Declined, Permanent
from millrace.settings import Settings
from protocols.coordinator.client import Coordinator
from protocols.coordinator.executions import Capability
from stages.compile.builder import image_digest
from stages.compile.fleet import FleetModules

_WORKER_ID = re.compile(r"[0-9A-Za-z._:-]{1,128}")


@asynccontextmanager
async def open_coordinator(settings: Settings) -> AsyncIterator[Coordinator | None]:
    """A client of the coordinator, nothing connected yet; None if there is none.

    Raises Permanent for an address that cannot be one, or that would carry the token over a network unencrypted.
    """
    own = settings.coordinator
    if not own.url:
        yield None
        return
    async with Coordinator(own.url, own.token or SecretStr("")) as coordinator:
        yield coordinator


@asynccontextmanager
async def open_fleet(settings: Settings) -> AsyncIterator[FleetModules | None]:
    """The modules and locks that the fleet shares through its coordinator; None if there is none."""
    async with open_coordinator(settings) as coordinator:
        if coordinator is None:
            yield None
        else:
            early = settings.coordinator.api == "tasks"
            yield FleetModules(coordinator, worker_id_of(settings), early=early)


def worker_id_of(settings: Settings) -> str:
    """The name that the coordinator knows this worker by: the settings', else one that is made once and kept.

    Raises Permanent if it is none that a coordinator could print.
    """
    named = settings.coordinator.worker_id or _kept_id(settings.data_dir / "coordinator" / "worker_id")
    if not _WORKER_ID.fullmatch(named):
        raise Permanent(
            "the worker's id has characters that it should not", hint="check MILLRACE_COORDINATOR__WORKER_ID"
        )
    return named


def _kept_id(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}")
        host = re.sub(r"[^0-9A-Za-z.-]", "-", socket.gethostname())[:60]
        fresh.write_text(f"millrace-{host}-{secrets.token_hex(8)}")
        try:
            os.link(fresh, path)  # fails if another process was first, whose name then holds
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def capabilities_of(settings: Settings) -> tuple[Capability, ...]:
    """What this worker can do now: it compiles where there is a builder."""
    try:
        image_digest(settings)
    except Declined:
        return (Capability.execution,)
    return (Capability.compilation, Capability.execution)
