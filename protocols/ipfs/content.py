"""Everything a stage needs to get and keep content: the store, where else to look, where else to put it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from millrace.errors import MillraceError, Transient
from millrace.settings import IpfsSettings
from protocols.ipfs.backends import ContentPlace, ContentSink, ContentSource
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentRefused, ContentUnavailable, InvalidBlock
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.kubo import KuboDaemon
from protocols.ipfs.pinata import Pinata
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.store import ContentStore
from protocols.ipfs.verified import Verified

_CONNECT_SECONDS = 10.0
_STEP_SECONDS = 30.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """The embedded store, the other places, and what content may have. Close it, or use it with `async with`."""

    store: ContentStore
    sources: Sequence[ContentSource] = ()
    sinks: Sequence[ContentSink] = ()
    limits: ReadLimits = field(default_factory=ReadLimits)
    timeout_seconds: float = 60.0
    client: httpx.AsyncClient | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def places(self) -> list[ContentPlace]:
        """Every place besides the embedded store, each once."""
        return list({id(place): place for place in (*self.sources, *self.sinks)}.values())

    async def fetch_elsewhere(self, cid: CID, limits: ReadLimits) -> tuple[Verified, str]:
        """The content named `cid` and the name of the place it is from: each source in order, until one proves it.

        All of it takes at most `timeout_seconds`; each source gets its share of what is left. Raises LimitExceeded,
        UnsupportedContent or InvalidDag as soon as the content itself is shown to be unreadable; else, with what
        every source said, ContentUnavailable if any may have it later and ContentRefused if none will.
        """
        deadline = self.clock() + self.timeout_seconds
        failures: list[MillraceError] = []
        for position, source in enumerate(self.sources):
            share_seconds = max((deadline - self.clock()) / (len(self.sources) - position), 0.0)
            try:
                return await source.fetch(cid, limits, share_seconds), source.name
            except (ContentUnavailable, ContentRefused, InvalidBlock) as error:
                _logger.warning("%s not from %s: %s", cid, source.name, error)
                failures.append(error)
        raise _combined(cid, failures)

    async def aclose(self) -> None:
        """Close the connections that are open."""
        if self.client is not None:
            await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def open_content(settings: IpfsSettings, data_dir: Path) -> Content:
    """The content that `settings` describe, its embedded store in `data_dir`.

    Raises Permanent if an address in the settings may not be used.
    """
    client = _new_client() if settings.gateways or settings.pinata_jwt else None
    daemon = KuboDaemon(settings.daemon, timeout_seconds=settings.timeout_seconds) if settings.daemon else None
    gateways = [
        Gateway(url, client, allow_private=settings.allow_private_gateways) for url in settings.gateways if client
    ]
    pinata = (
        Pinata(
            settings.pinata_jwt,
            client,
            api_url=settings.pinata_api,
            timeout_seconds=settings.timeout_seconds,
        )
        if settings.pinata_jwt and client
        else None
    )
    return Content(
        store=ContentStore(data_dir / "content"),
        sources=(*([daemon] if daemon else []), *gateways),
        sinks=(*([daemon] if daemon else []), *([pinata] if pinata else [])),
        limits=ReadLimits(settings.max_bytes, settings.max_blocks, settings.max_depth),
        timeout_seconds=settings.timeout_seconds,
        client=client,
    )


def _new_client() -> httpx.AsyncClient:
    # Without the environment's proxies: behind one, the address check of gateways would see only the proxy.
    return httpx.AsyncClient(
        follow_redirects=False, trust_env=False, timeout=httpx.Timeout(_STEP_SECONDS, connect=_CONNECT_SECONDS)
    )


def _combined(cid: CID, failures: Sequence[MillraceError]) -> MillraceError:
    """One error for all: worth another try if any of them is, after the shortest wait that was asked for."""
    told = "; ".join(failure.message for failure in failures)
    transient = [failure for failure in failures if isinstance(failure, Transient)]
    if not failures:
        return ContentRefused(
            f"{cid} is not in the store, and there is nowhere else to look",
            hint="set MILLRACE_IPFS__GATEWAYS or MILLRACE_IPFS__DAEMON",
        )
    if not transient:
        return ContentRefused(f"nobody will give us {cid}: {told}")
    waits = [failure.retry_after_seconds for failure in transient if failure.retry_after_seconds is not None]
    return ContentUnavailable(
        f"nobody gave us {cid}: {told}",
        retry_after_seconds=min(waits) if len(waits) == len(transient) else None,
        hint="is the content published, and are the gateways reachable?",
    )
