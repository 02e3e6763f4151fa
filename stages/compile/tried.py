"""The builder of a flow run: tried out once on each boot of the machine, not before each build."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.settings import Settings
from stages.compile.builder import PROBE, Builder, find_engine, open_builder
from stages.compile.container import Engine
from stages.compile.target import BuildTarget

_FILE = "builder-self-test.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Tried(BaseModel):
    """What trying came to, and what was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    rustc: str
    clang: str
    rust_targets: frozenset[BuildTarget]
    c_targets: frozenset[BuildTarget]


async def tried_builder(settings: Settings) -> Builder:
    """The builder that the settings name; tried out if this very one was not since the machine started.

    Raises as `open_builder`.
    """
    path = settings.data_dir.absolute() / "state" / _FILE
    engine = await asyncio.to_thread(find_engine, settings)
    what = _identity(engine)
    known = _read(path)
    if known is not None and known.what == what:
        return Builder(engine, known.rustc, known.clang, known.rust_targets, known.c_targets)
    builder = await open_builder(settings)
    _write(
        path,
        _Tried(
            what=what,
            rustc=builder.rustc,
            clang=builder.clang,
            rust_targets=builder.rust_targets,
            c_targets=builder.c_targets,
        ),
    )
    return builder


def _identity(engine: Engine) -> str:
    """Changes with everything that the trial's outcome depends on."""
    told = repr((_BOOT_ID.read_text(), engine.daemon, engine.image.id, engine.slots, PROBE, os.geteuid()))
    return hashlib.sha256(told.encode()).hexdigest()


def _read(path: Path) -> _Tried | None:
    try:
        return _Tried.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(path: Path, tried: _Tried) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(tried.model_dump_json())
    partial.replace(path)
