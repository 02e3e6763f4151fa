"""One HTTP gateway: asked for blocks, and believed only what their hashes prove.

Sources: https://specs.ipfs.tech/http-gateways/trustless-gateway/ and path-gateway. A gateway that knows neither
`format` nor `Accept` sends the plain file instead; then its CID is made anew under every known profile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from protocols.ipfs.addresses import check_address, check_host, check_url
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import ContentRefused, ContentUnavailable, InvalidBlock, TruncatedCar
from protocols.ipfs.http_limits import IDENTITY, capped_body, read_capped, retry_after_seconds
from protocols.ipfs.reader import MAX_BLOCK_BYTES, ReadLimits
from protocols.ipfs.verified import CarCollector, Verified, verify_plain

_RAW_TYPE = "application/vnd.ipld.raw"
_CAR_TYPE = "application/vnd.ipld.car"
_BAD_FORMAT = frozenset({400, 406})
_TRY_AGAIN = frozenset({404, 408, 425, 429})
"""404 is among them: a gateway that finds no provider today may find one tomorrow."""

_MOST_REQUESTS = 3
"""For the blocks, then perhaps for the plain file, and once more at the CID's own subdomain."""

_EMPTY_BLOCK = CID.parse("bafkqaaa")
"""The CID that the specification names for probing: it carries its content, which is empty."""

_CHECK_SECONDS = 10.0

liars: dict[str, str] = {}
"""Gateways that sent wrong bytes for a CID, with what they did: not asked again in this process."""


class Gateway:
    """A gateway at `url`, as a ContentSource.

    `client` must not follow redirects; `allow_private` lets http and private addresses pass; `distrusted` is
    where gateways that lied are noted, by default for the whole process; `clock` gives Unix seconds.
    Raises Permanent if the address may not be used.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        allow_private: bool = False,
        distrusted: dict[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = check_url(url, allow_private=allow_private)
        self._client = client
        self._allow_private = allow_private
        self._distrusted = liars if distrusted is None else distrusted
        self._clock = clock

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        """The content named `cid`; errors as ContentSource says. A gateway that lies is not asked again."""
        if self.name in self._distrusted:
            raise ContentRefused(f"{self.name} is not asked any more: {self._distrusted[self.name]}")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._fetch(cid, limits)
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {timeout_seconds:.1f} s") from None
        except httpx.HTTPError as error:
            raise ContentUnavailable(f"{self.name}: {type(error).__name__} {error}".rstrip()) from None
        except TruncatedCar as error:
            raise ContentUnavailable(f"{self.name}: {error.message}") from None
        except InvalidBlock as error:
            self._distrusted[self.name] = error.message
            raise InvalidBlock(f"{self.name} sent wrong bytes: {error.message}") from None

    async def check(self) -> str:
        """Return "" if the gateway answers as one does: with nothing, asked for the block that its CID says is empty.

        Raises ContentUnavailable or ContentRefused with what it answered instead.
        """
        try:
            async with (
                asyncio.timeout(_CHECK_SECONDS),
                self._get(f"{self.name}/ipfs/{_EMPTY_BLOCK}", _EMPTY_BLOCK, trustless=True) as response,
            ):
                self._check_status(response)
                body = await read_capped(response, MAX_BLOCK_BYTES)
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {_CHECK_SECONDS:.0f} s") from None
        except httpx.HTTPError as error:
            raise ContentUnavailable(f"{self.name}: {type(error).__name__} {error}".rstrip()) from None
        if body:
            raise ContentRefused(f"{self.name} is no IPFS gateway: it sent {len(body)} bytes for an empty block")
        return ""

    async def _fetch(self, cid: CID, limits: ReadLimits) -> Verified:
        url, trustless = f"{self.name}/ipfs/{cid}", True
        for _ in range(_MOST_REQUESTS):
            async with self._get(url, cid, trustless=trustless) as response:
                if response.status_code in _BAD_FORMAT and trustless:
                    trustless = False
                elif (subdomain := self._own_subdomain(cid, response)) not in (None, url):
                    url = str(subdomain)
                else:
                    return await self._verified(cid, limits, response)
        raise ContentRefused(f"{self.name} sends us from one address to the next")

    @asynccontextmanager
    async def _get(self, url: str, cid: CID, *, trustless: bool) -> AsyncIterator[httpx.Response]:
        if not self._allow_private:
            await check_host(url)
        form = _RAW_TYPE if cid.codec == RAW else f"{_CAR_TYPE}; version=1; order=dfs; dups=n"
        asked = {"format": "raw"} if cid.codec == RAW else {"format": "car", "dag-scope": "entity"}
        async with self._client.stream(
            "GET",
            url,
            params=asked if trustless else {},
            headers={**IDENTITY, "Accept": form if trustless else "*/*"},
            follow_redirects=False,
        ) as response:
            self._check_peer(response)
            yield response

    def _own_subdomain(self, cid: CID, response: httpx.Response) -> str | None:
        """Where the gateway redirects, if that is its own subdomain for this very CID; all else is not followed."""
        if not 300 <= response.status_code < 400:
            return None
        own = urlsplit(self.name)
        host = f"{cid.format('base32')}.ipfs.{own.netloc}"
        try:
            there = urlsplit(response.headers.get("Location", ""))
        except ValueError:
            return None
        return f"{own.scheme}://{host}/" if (there.scheme, there.netloc.lower()) == (own.scheme, host) else None

    def _check_peer(self, response: httpx.Response) -> None:
        """Look at the address that was really connected to: a name can resolve differently a moment later."""
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None and not self._allow_private else None
        if peer:
            check_address(str(peer[0]), self.name)

    async def _verified(self, cid: CID, limits: ReadLimits, response: httpx.Response) -> Verified:
        self._check_status(response)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == _CAR_TYPE:
            collector = CarCollector(cid, limits)
            async for piece in capped_body(response, limits.max_bytes * 2 + MAX_BLOCK_BYTES):
                collector.feed(piece)
            return await asyncio.to_thread(collector.read)
        most = min(limits.max_bytes, MAX_BLOCK_BYTES) if cid.codec == RAW else limits.max_bytes
        content = await read_capped(response, most)
        try:
            return await asyncio.to_thread(verify_plain, cid, content)
        except InvalidBlock:
            if kind != "text/html":
                raise
            # An error page with a wrong status is a fault, not a lie.
            raise ContentUnavailable(f"{self.name} sent a web page instead of the content") from None

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        if status in _TRY_AGAIN or status >= 500:
            raise ContentUnavailable(
                f"{self.name} answered {status}",
                retry_after_seconds=retry_after_seconds(response.headers, self._clock),
            )
        if 300 <= status < 400:
            raise ContentRefused(f"{self.name} redirects, which is not followed", hint="configure where it leads")
        raise ContentRefused(f"{self.name} answered {status}")
