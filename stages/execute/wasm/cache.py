"""Modules as machine code, compiled once and kept on disk and in memory.

Loading machine code is running it, so nothing is loaded but what this worker wrote: the folder is ours alone, and each
file begins with an HMAC over its name and its content, under a key that never leaves that folder. What children get is
a sealed copy in memory, which nobody can change after it was checked; a file that is overwritten under an engine that
has mapped it would kill the engine. Children never write here: one that compiles hands its bytes back through a pipe,
and could at most spoil the entry of the very module that subverted it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import platform
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from millrace.errors import MillraceError
from millrace.limits import MIB
from stages.execute.sandbox.owner import is_orphan, new_name
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.wasi.compiled import locked, private_folder, processor, wasmtime_version, write_whole
from stages.execute.wasm import configuration

_MAC_BYTES = 32
_KEY_FILE = "cache.key"
_LOW_WATER = 0.8
"""Of the high-water mark: how much may stay when it was passed."""

_IN_MEMORY_MODULES, _IN_MEMORY_BYTES = 16, 256 * MIB


def cache_key(module_sha256: str, *, component: bool) -> str:
    """A string that changes with anything that a module's machine code depends on."""
    settings = configuration.COMPONENT if component else configuration.CORE
    parts = [module_sha256, wasmtime_version(), settings, platform.machine(), processor()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(eq=False)
class ModuleCache:
    """Compiled modules in `folder`, at most about `most_bytes` of them; those used longest ago go first."""

    folder: Path
    most_bytes: int = 2 << 30
    _open: OrderedDict[str, int] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        _every_cache.add(self)

    def descriptor(
        self, key: str, compile_module: Callable[[], bytes], waiting: Callable[[], None] | None = None
    ) -> tuple[int, bool]:
        """A sealed file with the machine code called `key`, which the caller closes, and whether it was there before.

        Raises what `compile_module` raises, which is asked only once however many want the same module, and what
        `waiting` raises, which is called while another process is asked; Declined if the folder is not ours alone.
        """
        if (found := self._in_memory(key)) is not None:
            return found, True
        private_folder(self.folder)
        if (content := self._load(key)) is not None:
            return self._keep(key, content), True
        with locked(self.folder / f"lock-{key[:2]}", waiting):
            # Another process may have been first.
            if (content := self._load(key)) is not None:
                return self._keep(key, content), True
            content = compile_module()
            self._store(key, content)
        self.collect_garbage()
        return self._keep(key, content), False

    def collect_garbage(self) -> list[str]:
        """Remove what was used longest ago once there is too much, and what killed workers left half written."""
        removed = []
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another worker does the same
                if is_orphan(path.suffix.removeprefix(".")):
                    path.unlink()
                    removed.append(path.name)
                elif path.suffix == ".cwasm":
                    state = path.stat()
                    kept.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in kept)
        if total <= self.most_bytes:
            return removed
        for _, size, path in sorted(kept):
            if total <= self.most_bytes * _LOW_WATER:
                break
            path.unlink(missing_ok=True)
            removed.append(path.name)
            total -= size
        return removed

    def close(self) -> None:
        """Let go of the copies in memory."""
        with self._lock:
            for fd in self._open.values():
                os.close(fd)
            self._open.clear()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.cwasm"

    def _load(self, key: str) -> bytes | None:
        """What we wrote, byte for byte; None if there is nothing, or something else."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        code = memoryview(content)[_MAC_BYTES:]
        if not hmac.compare_digest(content[:_MAC_BYTES], self._mac(key, code)):
            return None
        with suppress(FileNotFoundError):
            os.utime(self._path(key))
        return bytes(code)

    def _store(self, key: str, content: bytes) -> None:
        try:
            write_whole(self._path(key), self._mac(key, content) + content)
        except OSError:
            # A full disk costs time, not jobs: it is compiled again.
            for left in self.folder.glob(f"{key}.cwasm.*"):
                left.unlink(missing_ok=True)

    def _mac(self, key: str, content: bytes | memoryview) -> bytes:
        mac = hmac.new(self._secret(), key.encode() + b"\0", hashlib.sha256)
        mac.update(content)
        return mac.digest()

    def _secret(self) -> bytes:
        """The key of the HMAC, made by whoever needs it first."""
        path = self.folder / _KEY_FILE
        with suppress(FileNotFoundError):
            return _sound(path.read_bytes())
        fresh = path.with_name(f"{_KEY_FILE}.{new_name()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_MAC_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another worker was first
            os.link(fresh, path)
        fresh.unlink()
        return _sound(path.read_bytes())

    def _in_memory(self, key: str) -> int | None:
        with self._lock:
            if (fd := self._open.get(key)) is None:
                return None
            self._open.move_to_end(key)
            return os.dup(fd)

    def _keep(self, key: str, content: bytes) -> int:
        """Keep a sealed copy in memory, and return a descriptor of it for the caller."""
        fd = sealed_file("module", content)
        with self._lock:
            if key in self._open:
                os.close(self._open.pop(key))
            self._open[key] = os.dup(fd)
            while len(self._open) > 1 and (len(self._open) > _IN_MEMORY_MODULES or self._held() > _IN_MEMORY_BYTES):
                os.close(self._open.popitem(last=False)[1])
        return fd

    def _held(self) -> int:
        return sum(os.fstat(fd).st_size for fd in self._open.values())

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # whoever held it does not live here


_every_cache: weakref.WeakSet[ModuleCache] = weakref.WeakSet()


def _renew_locks() -> None:
    for cache in list(_every_cache):
        cache._after_fork()


os.register_at_fork(after_in_child=_renew_locks)


def _sound(key: bytes) -> bytes:
    if len(key) != _MAC_BYTES:
        raise MillraceError(
            "the key of the cache of compiled modules is damaged",
            hint=f"remove {_KEY_FILE} beside them: they are made anew",
        )
    return key
