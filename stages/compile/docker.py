"""The stage: a fetched repository becomes a WASM module, in a container without network."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Declined, DeclineReason
from millrace.text import printable_lines
from stages.compile.builder import Builder, build_limits, open_builder
from stages.compile.container import Ending, EngineFault, run_container
from stages.compile.failure import CompileFailure, FailureReason, failure
from stages.compile.limits import BuildLimits
from stages.compile.links import without_links
from stages.compile.project import Project, examine
from stages.compile.target import BuildTarget, build_target
from stages.fetch.git import FetchedSource

__all__ = [
    "BuildLimits",
    "Builder",
    "CompileFailure",
    "Compiled",
    "EngineFault",
    "FailureReason",
    "build_limits",
    "cache_key",
    "compile_repository",
    "open_builder",
]

_SCRIPT = Path(__file__).with_name("build.sh").read_text()
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""ECMA-48's control sequences, operating system commands, and two-character escapes."""
_MODULE, _COMPONENT = b"\0asm\1\0\0\0", b"\0asm\x0d\0\1\0"


class Compiled(BaseModel):
    """A module, and how it came to be."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    cache_key: str = Field(description="As the coordinator calls it: says what was asked for, and not what came of it")
    module: bytes = Field(repr=False)
    wasm_sha256: str = Field(description="Of the module, in hex")
    size_bytes: int
    repo: str
    commit: str
    target: BuildTarget
    image: str = Field(description="Digest of the builder image")
    builder: str = Field(description="Engine, runtime, compilers and image, for a person")
    language: Literal["rust", "c"] | None = Field(default=None, description="None if it was not built here")
    origin: str = Field(default="", description="Who it was taken from, if it was not built here")
    dependencies: tuple[str, ...] = Field(default=(), description='Each as "name version"')
    made_lock: str = Field(
        default="", repr=False, description="The Cargo.lock made on that day for a repository that has none"
    )
    log: str = Field(repr=False, description="What the build wrote, safe to print")
    seconds: float = Field(description="Wall-clock time of the build")
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None


def cache_key(repo: str, commit: str, target: str) -> str:
    """What OutLayer's coordinator files a module under: a hash, in hex, of how it was asked for.

    Source: near-outlayer, worker/src/compiler: SHA-256 of "repo:commit:target".
    """
    return hashlib.sha256(f"{repo}:{commit}:{target}".encode()).hexdigest()


async def compile_repository(
    source: FetchedSource,
    target: str,
    limits: BuildLimits | None = None,
    *,
    builder: Builder,
    vendored: bytes | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Compiled:
    """Build the repository for `target` (see `build_target`) in one container, without network.

    `vendored` is a tar with the folder `vendor`, a directory source of Cargo's, and a Cargo.lock for a repository that
    has none. `on_progress` is told the build's lines as they come. The same commit, target, image and dependencies
    give the same bytes. A cancelled task leaves no container.

    Raises CompileFailure (Permanent) for what is the repository's own fault, Declined (unsupported) for a target that
    is unknown or that the image does not build, EngineFault (Transient) if Docker fails.
    """
    limits, wanted = limits or BuildLimits(), build_target(target)
    archive = source.archive or await asyncio.to_thread(_read, source)
    project = await asyncio.to_thread(examine, archive, wanted, vendored)
    _check_supported(builder, project, wanted)
    files, links = await asyncio.to_thread(without_links, archive)
    ended = await run_container(
        builder.engine,
        ["sh", "-c", _SCRIPT],
        stdin=files + links + (vendored or b""),
        limits=limits,
        environment={
            "SOURCE_BYTES": str(len(files)),
            "LINKS_BYTES": str(len(links)),
            "VENDORED_BYTES": str(len(vendored or b"")),
            "LANGUAGE": project.language,
            "TARGET": wanted,
            "SELECTION": " ".join(project.selection),
            "ARTIFACT_BYTES": str(limits.artifact_bytes),
        },
        on_log=on_progress,
    )
    log = await asyncio.to_thread(plain_log, ended.log)
    if ended.ending is not Ending.ok:
        raise failure(ended, log, limits)
    if not is_of_kind(ended.artifact, wanted):
        raise CompileFailure(
            f"what came of the build is no module for {wanted}",
            reason=FailureReason.not_wasm,
            log=log,
            seconds=ended.seconds,
        )
    return Compiled(
        cache_key=cache_key(source.repo, source.commit, target),
        module=ended.artifact,
        wasm_sha256=hashlib.sha256(ended.artifact).hexdigest(),
        size_bytes=len(ended.artifact),
        repo=source.repo,
        commit=source.commit,
        target=wanted,
        image=builder.engine.image.id,
        builder=builder.name,
        language=project.language,
        dependencies=project.dependencies,
        log=log,
        seconds=ended.seconds,
        peak_memory_bytes=ended.peak_memory_bytes,
        cpu_seconds=ended.cpu_seconds,
    )


def is_of_kind(module: bytes, target: BuildTarget) -> bool:
    """Whether it begins as what is built for that target does: a component, or a core module."""
    return module.startswith(_COMPONENT if target is BuildTarget.wasi_p2 else _MODULE)


def plain_log(log: bytes) -> str:
    """The log as text with its lines, without colours, and with everything else that moves a cursor made visible."""
    text = log.decode("utf-8", "replace").replace("\r\n", "\n").replace("\t", "    ")
    return printable_lines(_ESCAPE.sub("", text), 2_000)


def _read(source: FetchedSource) -> bytes:
    assert source.path is not None
    return source.path.read_bytes()


def _check_supported(builder: Builder, project: Project, target: BuildTarget) -> None:
    built = builder.rust_targets if project.language == "rust" else builder.c_targets
    if target not in built:
        language = {"rust": "Rust", "c": "C"}[project.language]
        raise Declined(
            f"the builder image {builder.engine.image.short_id} builds no {language} for {target}",
            reason=DeclineReason.unsupported,
            hint=f"it does for {', '.join(sorted(built)) or 'no target'}; another image may for more",
        )
