"""The two places that an outbox can be in, for tests that hold for both, and can be sent to another process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from stages.locks.server import connect
from stages.submit.outbox import Outbox
from stages.submit.outbox_fleet import FleetStore

TTL_SECONDS = 1.0


class OutboxPlace(Protocol):
    def open(self) -> Outbox:
        """The outbox there, as another process would open it."""

    def content(self, job_key: str) -> bytes:
        """What is kept for that job, which is live."""

    def replace(self, job_key: str, content: bytes) -> None:
        """Put something else in its place."""


@dataclass(frozen=True)
class FolderPlace:
    folder: Path

    def open(self) -> Outbox:
        return Outbox(self.folder)

    def content(self, job_key: str) -> bytes:
        return self._path(job_key).read_bytes()

    def replace(self, job_key: str, content: bytes) -> None:
        self._path(job_key).write_bytes(content)

    def _path(self, job_key: str) -> Path:
        return self.folder / f"{_name(job_key)}.json"


@dataclass(frozen=True)
class FleetPlace:
    url: str

    def open(self) -> Outbox:
        return Outbox(FleetStore(connect(self.url), ttl_seconds=TTL_SECONDS))

    def content(self, job_key: str) -> bytes:
        with connect(self.url) as client:
            return cast("bytes", client.get(self._key(job_key)))

    def replace(self, job_key: str, content: bytes) -> None:
        with connect(self.url) as client:
            client.set(self._key(job_key), content)

    def clear(self) -> None:
        with connect(self.url) as client:
            client.flushall()

    def _key(self, job_key: str) -> str:
        return f"millrace:outbox:record:{_name(job_key)}"


def _name(job_key: str) -> str:
    return hashlib.sha256(job_key.encode()).hexdigest()
