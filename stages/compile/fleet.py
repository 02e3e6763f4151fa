"""The stage: compile a commit unless another worker has, or is at it; the fleet's coordinator keeps what was built.

Nothing here is needed to do a job. Whatever the coordinator does wrong with modules and locks, the commit is compiled.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from millrace.errors import MillraceError
from millrace.settings import Settings
from protocols.coordinator.client import Coordinator
from protocols.coordinator.storage import compile_lock_key
from stages.compile.commit import Commit, compile_commit
from stages.compile.docker import Builder, Compiled, cache_key, is_of_kind
from stages.compile.target import build_target
from stages.fetch.sources import Sources

_LOOK_SECONDS = 3.0
"""Between two looks for a module that another worker is building."""

_MARGIN_SECONDS = 180
"""A lock lives longer than the build it is for may take by so much: fetching dependencies, uploading."""

_LONGEST_WAIT_SECONDS = 90.0
"""For a lock of another's: it may be a killed worker's, and a request can be answered for some minutes only."""

_RELEASE_MARGIN_SECONDS = 5.0
"""A lock is not released when it ends about now: it may be somebody else's already, and nobody checks."""

_EMPTY_BYTES = 8

_logger = logging.getLogger("millrace.compile")


class FleetModules:
    """The modules and locks of the fleet at one coordinator; `early` says which of the two checksums it files by."""

    def __init__(
        self,
        coordinator: Coordinator,
        worker_id: str,
        *,
        early: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._coordinator = coordinator
        self._worker_id = worker_id
        self._early = early
        self._clock = clock
        self._sleep = sleep

    def checksums(self, commit: Commit) -> list[str]:
        """What the commit's module is filed under: as the coordinator named it first, then as we do."""
        own = cache_key(commit.repo, commit.commit, commit.target)
        if self._early:
            own = hashlib.sha256(f"{commit.repo}{commit.commit}{commit.target}".encode()).hexdigest()
        return list(dict.fromkeys(checksum for checksum in (commit.checksum, own) if checksum))

    async def find(self, commit: Commit) -> Compiled | None:
        """The module, if the coordinator has one for the commit's target; None as well if it is in trouble."""
        for checksum in self.checksums(commit):
            try:
                if not await self._coordinator.wasm.exists(checksum):
                    continue
                content = await self._coordinator.wasm.download(checksum)
                # EARLY's public worker uploads the eight bytes of an empty module for what it cannot build.
                if (
                    content is not None
                    and len(content) > _EMPTY_BYTES
                    and is_of_kind(content, build_target(commit.target))
                ):
                    return self._taken(commit, content)
                _logger.warning("%s has no module for %s under %s", self._coordinator.label, commit.target, checksum)
            except MillraceError as error:
                _logger.warning("%s: module %s is not taken: %s", self._coordinator.label, checksum, error.message)
        return None

    async def put(self, commit: Commit, module: bytes) -> bool:
        """Give the fleet what was built; whether it has it."""
        try:
            for checksum in self.checksums(commit):
                await self._coordinator.wasm.upload(
                    checksum,
                    module,
                    repo_url=commit.repo,
                    commit_hash=commit.commit,
                    build_target=None if self._early else commit.target,
                )
        except MillraceError as error:
            _logger.warning("%s does not take the module: %s", self._coordinator.label, error.message)
            return False
        return True

    @asynccontextmanager
    async def turn(self, commit: Commit, build_seconds: float) -> AsyncIterator[Compiled | None]:
        """Our turn to build inside, alone in the fleet if the coordinator works; or the module that another has built.

        Waits for a lock of another's no longer than a build may take, and 90 s at most.
        """
        key = compile_lock_key(commit.repo, commit.commit)
        ttl_seconds = math.ceil(build_seconds) + _MARGIN_SECONDS
        wait_seconds = min(build_seconds, _LONGEST_WAIT_SECONDS)
        deadline = self._clock() + wait_seconds
        found, ends_at = None, None
        while found is None and (ends_at := await self._acquired(key, ttl_seconds)) is None:
            if self._clock() + _LOOK_SECONDS > deadline:
                _logger.warning("another worker has kept %s locked for %g s: built without", key, wait_seconds)
                break
            await self._sleep(_LOOK_SECONDS)
            found = await self._built(commit)
        if found is None and ends_at:
            # It may have been built between our look and our lock.
            found = await self._built(commit)
        try:
            yield found
        finally:
            if ends_at and self._clock() < ends_at - _RELEASE_MARGIN_SECONDS:
                await self._release(key)

    async def _built(self, commit: Commit) -> Compiled | None:
        return None if commit.anew_for else await self.find(commit)

    async def _acquired(self, key: str, ttl_seconds: int) -> float | None:
        """When the lock that is ours now ends; None if another has it, 0 if it cannot be had: go on without."""
        asked_at = self._clock()
        try:
            taken = await self._coordinator.locks.acquire(key, self._worker_id, ttl_seconds)
        except MillraceError as error:
            _logger.warning("%s gives no lock: %s", self._coordinator.label, error.message)
            return 0.0
        return asked_at + ttl_seconds if taken else None

    async def _release(self, key: str) -> None:
        try:
            await self._coordinator.locks.release(key)
        except MillraceError as error:
            _logger.warning("%s: the lock on %s ends by itself: %s", self._coordinator.label, key, error.message)

    def _taken(self, commit: Commit, module: bytes) -> Compiled:
        return Compiled(
            cache_key=cache_key(commit.repo, commit.commit, commit.target),
            module=module,
            wasm_sha256=hashlib.sha256(module).hexdigest(),
            size_bytes=len(module),
            repo=commit.repo,
            commit=commit.commit,
            target=build_target(commit.target),
            image="",
            builder="another worker",
            language=None,
            origin=self._coordinator.label,
            log=f"not built here: downloaded from {self._coordinator.label}",
            seconds=0.0,
        )


async def compile_in_fleet(
    commit: Commit,
    *,
    sources: Sources,
    open_builder: Callable[[], Awaitable[Builder]],
    settings: Settings,
    fleet: FleetModules | None,
) -> Compiled:
    """The commit's module: downloaded if another worker has built it, else compiled here and uploaded.

    Raises as `compile_commit`. A module that was not built here says so in `origin`.
    """
    if fleet is None:
        return await compile_commit(commit, sources=sources, open_builder=open_builder, settings=settings)
    if not commit.anew_for and (found := await fleet.find(commit)) is not None:
        return found
    async with fleet.turn(commit, settings.compile.timeout_seconds) as built:
        if built is not None:
            return built
        compiled = await compile_commit(commit, sources=sources, open_builder=open_builder, settings=settings)
        await fleet.put(commit, compiled.module)
        return compiled
