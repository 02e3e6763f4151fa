"""The module as machine code, compiled once and kept: seven seconds of work that a run must not begin with.

Loading machine code is running it. So none is ever taken from anywhere but our own folder, which nobody else may enter;
its bytes are compared with the hash that was written down when we made them; and what runs share is a sealed copy in
memory, which nobody can change after it was checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from millrace.errors import Declined, DeclineReason
from stages.execute.sandbox.owner import is_orphan, new_name
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.wasi import engine
from stages.execute.sandbox.wasi.build import Build
from stages.locks.flock import is_ours_now

COMPILE_SECONDS = 600

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class CompiledModule:
    """A build's machine code for this processor and this wasmtime, in `folder`."""

    build: Build
    folder: Path

    @property
    def key(self) -> str:
        """A string that changes with anything that machine code depends on."""
        parts = [self.build.sha256, wasmtime_version(), engine.CONFIGURATION, platform.machine(), processor()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def descriptor(self) -> int:
        """An open, sealed file with the machine code, for as long as this process lives; compiles it if need be.

        Raises Declined(no_sandbox) if the folder is not ours alone or the build does not compile.
        """
        if (found := _descriptors.get(self)) is not None:
            return found
        made = sealed_file("module", self.load())
        # Another thread may have been first; no lock, which a fork could leave locked.
        if (kept := _descriptors.setdefault(self, made)) != made:
            os.close(made)
        return kept

    def load(self) -> bytes:
        """The machine code as it was made; compiled, and kept, if there is none or if it was damaged."""
        private_folder(self.folder)
        if (found := self._intact()) is not None:
            return found
        with locked(self.folder / "lock"):
            # Another process may have been first.
            if (found := self._intact()) is not None:
                return found
            return self._make()

    def sweep(self) -> list[str]:
        """Remove what compilations left half written whose process is gone."""
        removed = []
        for path in self.folder.glob("*.millrace-*"):
            if is_orphan(path.suffix.removeprefix(".")):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.key}.cwasm"

    def _intact(self) -> bytes | None:
        try:
            content = self._file.read_bytes()
            record = json.loads(self._file.with_suffix(".json").read_text())
        except (OSError, ValueError):
            return None
        wanted = record.get("sha256") if isinstance(record, dict) else None
        return content if hashlib.sha256(content).hexdigest() == wanted else None

    def _make(self) -> bytes:
        content = _compile(self.build.read())
        record = {"sha256": hashlib.sha256(content).hexdigest(), "module": self.build.sha256}
        write_whole(self._file, content)
        write_whole(self._file.with_suffix(".json"), json.dumps(record).encode())
        return content


_descriptors: dict[CompiledModule, int] = {}


def engine_command(name: str, task: dict[str, object]) -> list[str]:
    """The command that starts the engine on `task`; `name` says in /proc whose it is."""
    return script_command(engine.__file__, name, task)


def script_command(script: str, name: str, task: dict[str, object]) -> list[str]:
    """The command that starts `script`, a file of ours that imports nothing of ours, on `task`."""
    site = str(Path(_wasmtime_file()).parents[1])
    whole = {**task, "site": site, "parent": os.getpid()}
    return [sys.executable, "-I", "-S", "-B", script, name, json.dumps(whole)]


@cache
def wasmtime_version() -> str:
    """The version of the installed wasmtime."""
    return metadata.version("wasmtime")


def private_folder(folder: Path) -> None:
    """Make `folder` if it is not there. Raises Declined(no_sandbox) if anybody but us may enter it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Declined(
            f"machine code is not kept in {folder}, which others may enter",
            reason=DeclineReason.no_sandbox,
            hint=f"chmod 700 {folder}; it must belong to the user that the worker runs as",
        )


def _compile(module: bytes) -> bytes:
    source = sealed_file("module", module)
    try:
        done = subprocess.run(
            engine_command(new_name(), {"act": "compile"}),
            stdin=source,
            capture_output=True,
            env={},
            cwd="/",
            timeout=COMPILE_SECONDS,
            check=False,
        )
    finally:
        os.close(source)
    if done.returncode != 0 or not done.stdout:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Declined(
            f"the WASI build of Python does not compile: {' '.join(last)[:300]}",
            reason=DeclineReason.no_sandbox,
            hint="use the build that `millrace wasi fetch` gets, or one of your own that wasmtime can run",
        )
    return done.stdout


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` for us alone: whoever reads it sees the old file or the new one, never half of it."""
    fresh = path.with_name(f"{path.name}.{new_name()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only process in this block, among those that name the same lock file.

    While another is, `waiting` is called again and again, and may raise.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if waiting is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        else:
            while not is_ours_now(fd):
                waiting()
                time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(fd)


@cache
def _wasmtime_file() -> str:
    """Where wasmtime is, without importing it: that takes longer than all the rest of the worker's part of a run."""
    found = util.find_spec("wasmtime")
    if found is None or found.origin is None:
        raise Declined("wasmtime is not installed", reason=DeclineReason.no_sandbox, hint="make setup")
    return found.origin


@cache
def processor() -> str:
    """What this processor can do: machine code made on another may use what this one lacks."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")
