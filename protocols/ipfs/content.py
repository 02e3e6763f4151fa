"""Everything a stage needs to get and keep content: the store, where else to look, where else to put it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from millrace.errors import Permanent
from millrace.settings import IpfsSettings
from protocols.ipfs.backends import ContentPlace, ContentSink, ContentSource
from protocols.ipfs.cid import CID, DAG_PB
from protocols.ipfs.directory import check_name, resolve_path
from protocols.ipfs.errors import ContentUnavailable, UnsupportedContent
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.kubo import KuboDaemon
from protocols.ipfs.locks import HeldElsewhere, alone
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.pinata import Pinata
from protocols.ipfs.pinning_service import PinningService
from protocols.ipfs.race import HEDGE_SECONDS, first_verified
from protocols.ipfs.reader import ReadLimits, check_readable
from protocols.ipfs.standing import Standings
from protocols.ipfs.store import ContentStore
from protocols.ipfs.uploads import UploadRecords

T = TypeVar("T")

EMBEDDED_STORE = "embedded store"
STANDINGS_FILE = "gateways.json"

_CONNECT_SECONDS = 10.0
_STEP_SECONDS = 30.0
_MOST_NAMES = 16


@dataclass(frozen=True)
class Content:
    """The embedded store, the other places, and what content may have. Close it, or use it with `async with`."""

    store: ContentStore
    sources: Sequence[ContentSource] = ()
    gateways: Sequence[Gateway] = ()
    sinks: Sequence[ContentSink] = ()
    limits: ReadLimits = field(default_factory=ReadLimits)
    timeout_seconds: float = 60.0
    client: httpx.AsyncClient | None = None
    clock: Callable[[], float] = time.monotonic
    standings: Standings = field(default_factory=Standings)
    hedge_seconds: float = HEDGE_SECONDS

    @property
    def places(self) -> list[ContentPlace]:
        """Every place besides the embedded store, each once."""
        return list({id(place): place for place in (*self.sources, *self.gateways, *self.sinks)}.values())

    async def fetch_elsewhere(self, cid: CID, limits: ReadLimits) -> tuple[bytes, str]:
        """The file named `cid`, kept in the store from now on, and the name of the place it is from.

        Only one of all flow runs on this machine asks for the same content at a time; the others wait, and find it in
        the store. Sources are asked in order, then gateways, the best first. All of it takes at most
        `timeout_seconds`. Raises UnsupportedContent before anybody is asked if the CID is of no file that is read
        here; ContentUnavailable if another flow run takes too long; otherwise as `first_verified`.
        """
        check_readable(cid)
        deadline = self.clock() + self.timeout_seconds
        try:
            async with alone(self.store.lock_of(cid), self.timeout_seconds):
                with suppress(ContentUnavailable):
                    return await asyncio.to_thread(self.store.get, cid, limits.max_bytes), EMBEDDED_STORE
                verified, source = await self._first(
                    cid, lambda source, seconds: source.fetch(cid, limits, seconds), deadline - self.clock()
                )
                await asyncio.to_thread(self.store.keep, verified)
                return verified.content, source
        except HeldElsewhere:
            raise ContentUnavailable(f"{cid} is being fetched by another flow run, for long") from None

    async def resolve(self, root: CID, path: str) -> CID:
        """The CID of what `path`, names joined by `/`, leads to from the directory `root`, block by verified block.

        Raises as `resolve_path` and `fetch_elsewhere` do; UnsupportedContent if the path is longer than any sane one.
        """
        names = path.split("/")
        if len(names) > _MOST_NAMES:
            raise UnsupportedContent(f"a path of {len(names)} names, and at most {_MOST_NAMES} are followed")
        deadline = self.clock() + self.timeout_seconds
        cid = root
        for name in names:
            check_name(name)
            block = await self._directory_block(cid, deadline)
            cid = await asyncio.to_thread(resolve_path, cid, name, {cid: block}.__getitem__)
        return cid

    async def _directory_block(self, cid: CID, deadline: float) -> bytes:
        check_readable(cid)
        if cid.codec != DAG_PB:
            raise UnsupportedContent(f"{cid} is a block of bytes, not a directory")
        if cid.inline is not None:
            return cid.inline
        with suppress(ContentUnavailable):
            return (await asyncio.to_thread(self.store.blocks, cid))(cid)
        return (await self._first(cid, lambda s, seconds: s.fetch_block(cid, seconds), deadline - self.clock()))[0]

    async def _first(
        self, cid: CID, ask: Callable[[ContentSource, float], Coroutine[Any, Any, T]], timeout_seconds: float
    ) -> tuple[T, str]:
        return await first_verified(
            [*self.sources, *self._ranked_gateways()],
            cid,
            ask,
            timeout_seconds,
            clock=self.clock,
            hedge_seconds=self.hedge_seconds,
        )

    def _ranked_gateways(self) -> list[Gateway]:
        by_name = {gateway.name: gateway for gateway in self.gateways}
        return [by_name[name] for name in self.standings.ranked(list(by_name))]

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
    needs_client = settings.gateways or settings.pinata_jwt or settings.pinning_service
    client = _new_client() if needs_client else None
    records = UploadRecords(data_dir / "uploads")
    daemon = (
        KuboDaemon(settings.daemon, timeout_seconds=settings.timeout_seconds, records=records)
        if settings.daemon
        else None
    )
    standings = Standings(data_dir / STANDINGS_FILE)
    gateways = [
        Gateway(url, client, allow_private=settings.allow_private_gateways, standings=standings)
        for url in settings.gateways
        if client
    ]
    return Content(
        store=ContentStore(data_dir / "content", quota_bytes=settings.quota_bytes),
        sources=[daemon] if daemon else [],
        gateways=gateways,
        standings=standings,
        sinks=[*([daemon] if daemon else []), *(_services(settings, client, records) if client else [])],
        limits=ReadLimits(settings.max_bytes, settings.max_blocks, settings.max_depth),
        timeout_seconds=settings.timeout_seconds,
        client=client,
    )


def _services(settings: IpfsSettings, client: httpx.AsyncClient, records: UploadRecords) -> Iterator[ContentSink]:
    """The remote services that keep results: first who gets the bytes, then who fetches them from there."""
    polling = PinPolling(settings.timeout_seconds)
    if settings.pinata_jwt:
        yield Pinata(
            settings.pinata_jwt,
            client,
            records=records,
            polling=polling,
            api_url=settings.pinata_api,
            timeout_seconds=settings.timeout_seconds,
        )
    if not settings.pinning_service:
        return
    if settings.pinning_service_token is None:
        raise Permanent("the pinning service has no token", hint="set MILLRACE_IPFS__PINNING_SERVICE_TOKEN")
    if not settings.pinata_jwt and not settings.daemon:
        raise Permanent(
            "a pinning service gets no bytes from us: it fetches them from others",
            hint="set MILLRACE_IPFS__DAEMON to a daemon that others can reach, or PINATA_JWT, as well",
        )
    yield PinningService(
        settings.pinning_service,
        settings.pinning_service_token,
        client,
        records=records,
        polling=polling,
        timeout_seconds=settings.timeout_seconds,
    )


def _new_client() -> httpx.AsyncClient:
    # Without the environment's proxies: behind one, the address check of gateways would see only the proxy.
    return httpx.AsyncClient(
        follow_redirects=False, trust_env=False, timeout=httpx.Timeout(_STEP_SECONDS, connect=_CONNECT_SECONDS)
    )
