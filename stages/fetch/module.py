"""Fetch a compiled module from the URL that a request names, and believe nothing of it but its hash."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Declined, DeclineReason, JobFault, Transient
from millrace.limits import MIB
from millrace.settings import Settings
from millrace.text import printable
from protocols.ipfs.addresses import is_public
from protocols.ipfs.content import Content
from stages.fetch.repository.address import Resolve, system_resolve

MOST_BYTES = 10 * MIB
"""Of a module behind a URL: the public worker's limit."""

_WALL_SECONDS = 30.0
_MOST_REDIRECTS = 3
_LONGEST_URL = 2_048
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_HOST = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429})


class Module(BaseModel):
    """A WASM module in the content store."""

    model_config = ConfigDict(frozen=True)

    cid: str
    sha256: str = Field(description="Of its bytes, in hex")
    size_bytes: int
    target: str = Field(description="Rust's name of the target it was built for")
    source: str = Field(description="Repository and commit, or the URL it came from")
    seconds: float | None = Field(default=None, description="Time it took to compile; None if nothing was compiled")
    build: dict[str, Any] = Field(default_factory=dict, description="How it was compiled, for the evidence")


async def fetch_module(
    url: str, sha256: str, target: str, *, content: Content, settings: Settings, resolve: Resolve = system_resolve
) -> Module:
    """Fetch the module at the https URL and keep it, if its SHA-256 is the one that the request names.

    Only public addresses are connected to, also behind redirects and whatever a name means the next time it is asked
    for. Raises Declined: not_allowed for an address that is not asked, too_big above 10 MiB; JobFault for what is not
    there or has another hash; Transient if the host cannot be asked now.
    """
    wanted = _SHA256.fullmatch(sha256)
    if wanted is None:
        raise JobFault(f"{printable(sha256, 80)} is no SHA-256", hint="a module's hash is 64 hex digits")
    try:
        async with asyncio.timeout(_WALL_SECONDS):
            found = await _download(url, settings.compile.allow_private_hosts, resolve)
    except TimeoutError:
        raise Transient(f"{_shown(url)} did not answer within {_WALL_SECONDS:g} s") from None
    digest = hashlib.sha256(found).hexdigest()
    if digest != wanted[1].lower():
        raise JobFault(f"the module at {_shown(url)} has the SHA-256 {digest}", hint="the request names another")
    cid = await asyncio.to_thread(content.store.put, found)
    return Module(cid=str(cid), sha256=digest, size_bytes=len(found), target=target, source=_shown(url))


async def _download(url: str, allow_private: bool, resolve: Resolve) -> bytes:
    async with httpx.AsyncClient(timeout=_WALL_SECONDS, trust_env=False, follow_redirects=False) as client:
        for _ in range(_MOST_REDIRECTS + 1):
            host, address = await _checked(url, allow_private, resolve)
            request = client.build_request("GET", address, headers={"host": host, "accept-encoding": "identity"})
            # The certificate is to be the name's: what is connected to is its address, the one that was checked.
            request.extensions["sni_hostname"] = urlsplit(url).hostname
            try:
                response = await client.send(request, stream=True)
                try:
                    if response.status_code not in _REDIRECTS:
                        return await _body(response, url)
                    url = urljoin(url, response.headers.get("location", ""))
                finally:
                    await response.aclose()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise Transient(f"{_shown(url)} cannot be fetched now: {type(error).__name__}") from None
    raise JobFault(f"{_shown(url)} is behind more than {_MOST_REDIRECTS} redirects", hint="name it where it is")


async def _checked(url: str, allow_private: bool, resolve: Resolve) -> tuple[str, str]:
    """The host as a server is to be told it, and the URL with an address in the place of its name."""
    try:
        parts = urlsplit(url) if len(url) <= _LONGEST_URL and url.isascii() and url.isprintable() else None
        port = parts.port if parts else None
    except ValueError:
        parts = port = None
    if parts is None or not _HOST.fullmatch(parts.hostname or "") or "@" in parts.netloc:
        raise _declined("the module's address is no URL, or holds a password")
    if parts.scheme not in (("https", "http") if allow_private else ("https",)):
        raise _declined(f"the module's address begins with {printable(parts.scheme, 20)!r}")
    if port not in (None, 443) and not allow_private:
        raise _declined(f"the module is at port {port}")
    assert parts.hostname is not None
    try:
        found = await resolve(parts.hostname)
    except (OSError, UnicodeError) as error:
        raise Transient(f"{parts.hostname} cannot be resolved: {error}", hint="check the name servers") from None
    for ip in found:
        if not allow_private and not is_public(ip):
            raise _declined(f"{parts.hostname} is at {ip}, which is not a public address")
    if not found:
        raise Transient(f"{parts.hostname} has no address")
    place = f"[{found[0]}]" if ":" in found[0] else found[0]
    where = place if port is None else f"{place}:{port}"
    return parts.netloc, urlunsplit((parts.scheme, where, parts.path or "/", parts.query, ""))


async def _body(response: httpx.Response, url: str) -> bytes:
    status = response.status_code
    if status in _BUSY or status >= 500:
        raise Transient(f"{_shown(url)} answers with the status {status}")
    if status != 200:
        raise JobFault(f"{_shown(url)} answers with the status {status}", hint="is the module there, for everybody?")
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > MOST_BYTES:
            raise Declined(
                f"the module at {_shown(url)} is larger than {MOST_BYTES} bytes",
                reason=DeclineReason.too_big,
                hint="strip it",
            )
    return bytes(found)


def _shown(url: str) -> str:
    """Without the query, which may hold what is not ours to tell."""
    return printable(url.partition("?")[0], 300)


def _declined(message: str) -> Declined:
    return Declined(message, reason=DeclineReason.not_allowed, hint="a module is fetched from https://host/path")
