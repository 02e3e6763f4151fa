"""One HTTP gateway: asked for blocks, and believed only what their hashes prove.

Sources: https://specs.ipfs.tech/http-gateways/trustless-gateway/ and path-gateway. A gateway that knows neither
`format` nor `Accept` sends the plain file instead; then its CID is made anew under every known profile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from millrace.errors import MillraceError
from millrace.text import printable
from protocols.ipfs.addresses import check_address, check_host, check_url
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import (
    BlockTooLarge,
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    StoreFault,
    TruncatedCar,
    UnsupportedContent,
)
from protocols.ipfs.http_limits import IDENTITY, capped_body, read_capped, retry_after_seconds
from protocols.ipfs.reader import MAX_BLOCK_BYTES, ReadLimits, verified
from protocols.ipfs.standing import Standings
from protocols.ipfs.threads import in_thread
from protocols.ipfs.verified import CarCollector, Verified, verify_plain

T = TypeVar("T")

_RAW_TYPE = "application/vnd.ipld.raw"
_CAR_TYPE = "application/vnd.ipld.car"
_TYPES_OF_CONTENT = frozenset({_RAW_TYPE, _CAR_TYPE, "application/octet-stream"})
"""What says of itself that it is what was asked for: bytes of another type may be an error page."""

_QUERIES = {"raw": {"format": "raw"}, "car": {"format": "car", "dag-scope": "entity"}, "": {}}
_ACCEPTS = {"raw": _RAW_TYPE, "car": f"{_CAR_TYPE}; version=1; order=dfs; dups=n", "": "*/*"}
_BAD_FORMAT = frozenset({400, 406})
_TRY_AGAIN = frozenset({408, 425, 429})

_MOST_REQUESTS = 3
"""For the blocks, then perhaps for the plain file, and once more at the CID's own subdomain."""

_EMPTY_BLOCK = CID.parse("bafkqaaa")
"""The CID that the specification names for probing: it carries its content, which is empty."""

_CHECK_SECONDS = 10.0

_MOST_REFUSALS_KEPT = 1000
_READABLE_OR_NOT = (LimitExceeded, UnsupportedContent, InvalidDag)
"""What verified blocks show of the content itself: the gateway did its part."""

_logger = logging.getLogger(__name__)


class NotHere(ContentUnavailable):
    """The gateway found the content nowhere: another may, and so may this one once the content is published."""


class Gateway:
    """A gateway at `url`, as a ContentSource.

    `client` must not follow redirects; `allow_private` lets http and private addresses pass; `standings` is where
    is noted how it behaves; `clock` gives Unix seconds. Raises Permanent if the address may not be used.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        allow_private: bool = False,
        standings: Standings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = check_url(url, allow_private=allow_private)
        self._client = client
        self._allow_private = allow_private
        self._standings = Standings(clock=clock) if standings is None else standings
        self._clock = clock
        self._refused: dict[bytes, str] = {}
        self._banned_here = ""

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        """The content named `cid`; errors as ContentSource says.

        It is not asked at all if it ever lied, if it refused this content before, or while it wants to be left alone.
        """
        return await self._on_record(cid, lambda: self._fetch(cid, limits), timeout_seconds)

    async def fetch_block(self, cid: CID, timeout_seconds: float) -> bytes:
        """The one block named `cid`; as `fetch`."""
        return await self._on_record(cid, lambda: self._fetch_block(cid), timeout_seconds)

    async def _on_record(self, cid: CID, ask: Callable[[], Awaitable[T]], timeout_seconds: float) -> T:
        """Ask, and note how the gateway behaved."""
        self._check_may_be_asked(cid)
        try:
            answer = await self._in_time(ask, timeout_seconds)
        except asyncio.CancelledError:
            await self._note(self._standings.note)  # another was faster
            raise
        except _READABLE_OR_NOT:
            await self._note(partial(self._standings.note, success=True))
            raise
        except (ContentUnavailable, ContentRefused, InvalidBlock) as error:
            await self._hold_against(cid, error)
            raise
        await self._note(partial(self._standings.note, success=True))
        return answer

    async def _note(self, note: Callable[[str], None]) -> bool:
        """Call `note` with our name, in a thread: it waits for a lock and for the disk. Whether it could be noted.

        If not, that is all that is lost. The thread ends its work and tells even if nobody waits for it any more.
        """

        def noted() -> bool:
            try:
                note(self.name)
            except StoreFault as error:
                _logger.warning("how %s behaved is not on record: %s", self.name, error)
                return False
            return True

        return await in_thread(noted)

    async def _in_time(self, ask: Callable[[], Awaitable[T]], timeout_seconds: float) -> T:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await ask()
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {timeout_seconds:.1f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ContentUnavailable(f"{self.name}: {type(error).__name__} {error}".rstrip()) from None
        except TruncatedCar as error:
            raise ContentUnavailable(f"{self.name}: {error.message}") from None
        except BlockTooLarge as error:
            raise ContentRefused(f"{self.name}: {error.message}") from None
        except InvalidBlock as error:
            raise InvalidBlock(f"{self.name} sent wrong bytes: {error.message}") from None

    def _check_may_be_asked(self, cid: CID) -> None:
        standing = self._standings.of(self.name)
        if banned := standing.banned or self._banned_here:
            raise ContentRefused(f"{self.name} is not asked any more: {banned}", hint=f"millrace forgive {self.name}")
        if cid.multihash in self._refused:
            raise ContentRefused(self._refused[cid.multihash])
        wait_seconds = standing.rest_seconds(self._clock())
        if wait_seconds > 0:
            raise ContentUnavailable(
                f"{self.name} wants to be left alone for {wait_seconds:.0f} s more", retry_after_seconds=wait_seconds
            )

    async def _hold_against(self, cid: CID, error: MillraceError) -> None:
        if isinstance(error, InvalidBlock):
            reason = f"for {cid} {error.message}"
            self._banned_here = reason
            if await self._note(partial(self._standings.ban, reason=reason)):
                self._banned_here = ""  # it is on record, where it can be forgiven
        elif isinstance(error, ContentRefused):
            if len(self._refused) < _MOST_REFUSALS_KEPT:
                self._refused[cid.multihash] = error.message
            await self._note(partial(self._standings.note, error=True))
        elif isinstance(error, NotHere):
            await self._note(self._standings.note)
        else:
            wish_seconds = error.retry_after_seconds if isinstance(error, ContentUnavailable) else None
            await self._note(partial(self._standings.note, error=True, rest_seconds=wish_seconds or 0.0))

    async def check(self) -> str:
        """Return "" if the gateway answers as one does: with nothing, asked for the block that its CID says is empty.

        Raises ContentUnavailable or ContentRefused with what it answered instead, or why it is not asked.
        """
        self._check_may_be_asked(_EMPTY_BLOCK)
        try:
            async with (
                asyncio.timeout(_CHECK_SECONDS),
                self._get(f"{self.name}/ipfs/{_EMPTY_BLOCK}", "raw") as response,
            ):
                self._check_status(response)
                body = await read_capped(response, MAX_BLOCK_BYTES)
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {_CHECK_SECONDS:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ContentUnavailable(f"{self.name}: {type(error).__name__} {error}".rstrip()) from None
        if body:
            raise ContentRefused(f"{self.name} is no IPFS gateway: it sent {len(body)} bytes for an empty block")
        return ""

    async def _fetch(self, cid: CID, limits: ReadLimits) -> Verified:
        url, form = f"{self.name}/ipfs/{cid}", "raw" if cid.codec == RAW else "car"
        for _ in range(_MOST_REQUESTS):
            async with self._get(url, form) as response:
                if response.status_code in _BAD_FORMAT and form:
                    form = ""
                elif (subdomain := self._own_subdomain(cid, response)) not in (None, url):
                    url = str(subdomain)
                else:
                    return await self._verified(cid, limits, response)
        raise ContentRefused(f"{self.name} sends us from one address to the next")

    async def _fetch_block(self, cid: CID) -> bytes:
        url = f"{self.name}/ipfs/{cid}"
        for _ in range(_MOST_REQUESTS):
            async with self._get(url, "raw") as response:
                if (subdomain := self._own_subdomain(cid, response)) not in (None, url):
                    url = str(subdomain)
                    continue
                self._check_status(response)
                if _type_of(response) != _RAW_TYPE:
                    raise ContentRefused(f"{self.name} does not give single blocks")
                return await self._proven(
                    response, partial(_checked, cid, await read_capped(response, MAX_BLOCK_BYTES))
                )
        raise ContentRefused(f"{self.name} sends us from one address to the next")

    @asynccontextmanager
    async def _get(self, url: str, form: str) -> AsyncIterator[httpx.Response]:
        """The answer to one request, in the `form` of a block (raw) or a CAR, or as it comes if that is empty."""
        if not self._allow_private:
            await check_host(url)
        async with self._client.stream(
            "GET",
            url,
            params=_QUERIES[form],
            headers={**IDENTITY, "Accept": _ACCEPTS[form]},
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
        if _type_of(response) == _CAR_TYPE:
            collector = CarCollector(cid, limits)
            async for piece in capped_body(response, limits.max_bytes * 2 + MAX_BLOCK_BYTES):
                collector.feed(piece)
            return await asyncio.to_thread(collector.read)
        most = min(limits.max_bytes, MAX_BLOCK_BYTES) if cid.codec == RAW else limits.max_bytes
        content = await read_capped(response, most)
        return await self._proven(response, lambda: verify_plain(cid, content))

    async def _proven(self, response: httpx.Response, prove: Callable[[], T]) -> T:
        """What `prove` makes of the whole body. Raises as it does, but InvalidBlock only for a lie."""
        try:
            return await asyncio.to_thread(prove)
        except InvalidBlock as error:
            # An error page with a wrong status is a fault, not a lie; nor is what the network may have cut off.
            if (said := _type_of(response)) not in _TYPES_OF_CONTENT:
                kind = "a web page" if said == "text/html" else printable(said, 80) or "something of no type"
                raise ContentUnavailable(f"{self.name} sent {kind} instead of the content") from None
            if not _has_an_end(response):
                raise ContentUnavailable(f"{self.name}: {error.message}, and it may have been cut short") from None
            raise

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        if status == 404:
            raise NotHere(f"{self.name} answered 404")
        if status in _TRY_AGAIN or status >= 500:
            raise ContentUnavailable(
                f"{self.name} answered {status}",
                retry_after_seconds=retry_after_seconds(response.headers, self._clock),
            )
        if 300 <= status < 400:
            raise ContentRefused(f"{self.name} redirects, which is not followed", hint="configure where it leads")
        raise ContentRefused(f"{self.name} answered {status}")


def _checked(cid: CID, block: bytes) -> bytes:
    return verified(cid, lambda _: block)


def _type_of(response: httpx.Response) -> str:
    said: str = response.headers.get("Content-Type", "")
    return said.partition(";")[0].strip().lower()


def _has_an_end(response: httpx.Response) -> bool:
    """Whether a body that was cut off would have shown it: one without length and chunks just ends."""
    return "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
