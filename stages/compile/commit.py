"""The stage: compile one commit, so that whoever wants the same commit for the same target can have the same module."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Transient
from millrace.settings import Settings
from stages.compile.builder import build_limits
from stages.compile.dependencies.rules import registry_rules
from stages.compile.dependencies.vendor import vendor
from stages.compile.docker import Builder, Compiled, compile_repository
from stages.fetch.git import FetchedSource
from stages.fetch.sources import Sources

_logger = logging.getLogger("millrace.compile")


class Commit(BaseModel):
    """What is compiled, and with what: nothing else decides what comes of it."""

    model_config = ConfigDict(frozen=True)

    repo: str
    commit: str = Field(description="Its full SHA-1")
    archive_sha256: str = Field(description="Of the archive of its files")
    target: str
    image: str = Field(description="Digest of the builder image")
    anew_for: str = Field(default="", description="Who wants it built even if it was before")
    checksum: str = Field(default="", description="What a coordinator files its module under, if it said so")


def commit_of(source: FetchedSource, target: str, image: str, anew_for: str = "", checksum: str = "") -> Commit:
    """The commit that was fetched, to be compiled."""
    return Commit(
        repo=source.repo,
        commit=source.commit,
        archive_sha256=source.sha256,
        target=target,
        image=image,
        anew_for=anew_for,
        checksum=checksum,
    )


async def compile_commit(
    commit: Commit, *, sources: Sources, open_builder: Callable[[], Awaitable[Builder]], settings: Settings
) -> Compiled:
    """Compile it, its progress told line by line in the log.

    Raises CompileFailure (a JobFault) for what is the repository's own fault, Declined where the builder cannot do
    it, Transient if Docker fails or the archive is not here any more.
    """
    if not sources.has(commit.archive_sha256):
        raise Transient(f"the files of {commit.commit} are gone", hint="run the job again: it fetches them anew")
    builder = await open_builder()
    source = FetchedSource(
        repo=commit.repo,
        asked=commit.commit,
        commit=commit.commit,
        sha256=commit.archive_sha256,
        files=0,
        tree_bytes=0,
        received_bytes=0,
        archive_bytes=0,
        path=sources.path_of(commit.archive_sha256),
    )
    vendored = await vendor(source, builder=builder, rules=registry_rules(settings), on_progress=_tell)
    if vendored is not None:
        _tell(f"vendored {', '.join(vendored.packages)} in {vendored.seconds:.1f} s")
    compiled = await compile_repository(
        source,
        commit.target,
        build_limits(settings),
        builder=builder,
        vendored=None if vendored is None else vendored.archive,
        on_progress=_tell,
    )
    if vendored is None or not vendored.lock_made:
        return compiled
    return compiled.model_copy(update={"made_lock": vendored.lock.decode("utf-8", "replace")})


def _tell(line: str) -> None:
    _logger.info("%s", line)
