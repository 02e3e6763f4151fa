"""What workers share: modules under a checksum that says nothing of their bytes, and locks that end by themselves."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass
class Module:
    """A module as it was uploaded; `content_sha256` is what its bytes had then."""

    content: bytes
    content_sha256: str
    created_at: float
    repo_url: str
    commit_hash: str
    build_target: str


class Modules:
    """The modules. One whose bytes have changed since they came is deleted when it is asked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._modules: dict[str, Module] = {}
        self._lock = threading.Lock()

    def put(self, checksum: str, content: bytes, repo_url: str, commit_hash: str, build_target: str) -> None:
        """Keep a module, in the place of one that is there."""
        found = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._modules[checksum] = Module(content, found, self._clock(), repo_url, commit_hash, build_target)

    def content(self, checksum: str) -> bytes | None:
        """The module's bytes; None if there is none."""
        with self._lock:
            module = self._modules.get(checksum)
            if module is not None and hashlib.sha256(module.content).hexdigest() != module.content_sha256:
                del self._modules[checksum]
                return None
            return None if module is None else module.content

    def created_at(self, checksum: str) -> str | None:
        """When the module came, as RFC 3339; None if there is none."""
        with self._lock:
            module = self._modules.get(checksum)
            return None if module is None else datetime.fromtimestamp(module.created_at, UTC).isoformat()

    def damage(self, checksum: str, content: bytes, *, noticed: bool) -> None:
        """Change a module's bytes behind the coordinator's back; unless `noticed`, its hash as well."""
        with self._lock:
            module = self._modules[checksum]
            module.content = content
            if not noticed:
                module.content_sha256 = hashlib.sha256(content).hexdigest()


class Locks:
    """Locks by key. Nobody checks who releases one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def acquire(self, key: str, worker_id: str, ttl_seconds: float) -> bool:
        """Whether the lock was free, and is the worker's now."""
        with self._lock:
            if key in self._held and self._held[key][1] > self._clock():
                return False
            self._held[key] = (worker_id, self._clock() + ttl_seconds)
            return True

    def release(self, key: str) -> None:
        """Let go of the lock, whoever has it."""
        with self._lock:
            self._held.pop(key, None)

    def held(self) -> dict[str, str]:
        """Who holds what, by key."""
        with self._lock:
            return {key: worker for key, (worker, end) in self._held.items() if end > self._clock()}
