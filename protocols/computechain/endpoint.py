"""One node's HTTP interface: one call at a time, bounded in bytes and seconds, its failures as errors of ours."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from millrace.errors import Permanent, Transient
from millrace.limits import MIB
from millrace.redaction import register_secret
from millrace.text import printable

MOST_BYTES = 64 * MIB
"""Of any answer: a block holds up to 5,000 transactions, and nothing bounds their proofs."""

MOST_LINE_BYTES = 65_536
"""Of one line of the event stream."""

_LONGEST_WAIT_SECONDS = 300.0


@dataclass(frozen=True)
class Answer:
    """A node's answer: its HTTP status and the JSON in it."""

    status: int
    body: Any


class Unreadable(Transient):
    """A node answers something that is no answer; another may do better, or the same one later."""


class Endpoint:
    """A node at `url`. Redirects are not followed, and nothing compressed is asked for: it may become anything."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.label = endpoint_label(url)
        parts = urlsplit(url)
        for secret in (parts.password or "", parts.path.strip("/")):
            if len(secret) >= 16:
                register_secret(secret)
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), timeout=timeout_seconds, headers={"Accept-Encoding": "identity"}
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def get(self, path: str) -> Answer:
        """Raises Transient if it does not answer now; Unreadable if what it answers is no JSON, or too much."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        """As `get`. After a Transient the node may have taken what it was given."""
        return await self._ask("POST", path, body)

    async def lines(self, path: str, silence_seconds: float) -> AsyncGenerator[bytes, None]:
        """The lines of an endless answer to GET `path` as they come; ends when the node hangs up.

        Raises Transient if it does not answer 200, breaks off or says nothing for `silence_seconds`; Unreadable for a
        line without end.
        """
        patience = httpx.Timeout(self._timeout_seconds, read=silence_seconds)
        try:
            async with self._http.stream("GET", path, timeout=patience) as response:
                if response.status_code != 200:
                    raise Transient(f"{self.label} answers with the status {response.status_code}")
                rest = b""
                async for piece in response.aiter_raw():
                    *complete, rest = (rest + piece).split(b"\n")
                    for line in complete:
                        yield line.removesuffix(b"\r")
                    if len(rest) > MOST_LINE_BYTES:
                        raise Unreadable(f"{self.label} sends a line of more than {MOST_LINE_BYTES} bytes")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Transient(f"the stream of {self.label} broke off: {type(error).__name__}") from None

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._http.stream(method, path, json=body) as response,
            ):
                if response.status_code == 429 or response.status_code >= 500:
                    told = f"{self.label} answers with the status {response.status_code}"
                    raise Transient(told, retry_after_seconds=_wish(response.headers.get("Retry-After", "")))
                return Answer(response.status_code, parsed(await self._content(response), self.label))
        except TimeoutError:
            raise Transient(f"{self.label} did not answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            # Its text may quote the whole address.
            raise Transient(f"{self.label} cannot be reached: {type(error).__name__}") from None

    async def _content(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > MOST_BYTES:
                raise Unreadable(f"{self.label} answers with more than {MOST_BYTES} bytes")
        return bytes(content)


def endpoint_label(url: str) -> str:
    """Scheme, host and port of `url`, which may be printed; a key may travel in the rest.

    Raises Permanent, not quoting it, if it is no http or https URL, or has a query, which no path can follow.
    """
    try:
        parts, read = urlsplit(url), httpx.URL(url)
        host, port = parts.hostname, parts.port
    except (ValueError, httpx.InvalidURL):
        host = None
    if not host or parts.scheme not in ("http", "https") or read.query or read.fragment:
        raise Permanent(
            "one of the ComputeChain nodes is not an http or https URL, or one with a query",
            hint="check MILLRACE_COMPUTECHAIN__RPC_URLS",
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def parsed(content: bytes, label: str) -> Any:
    """The JSON that a node at `label` sent. Raises Unreadable."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        shown = printable(content[:100].decode(errors="replace"))
        raise Unreadable(f"{label} answers with what is no JSON: {shown}", hint="is it a ComputeChain node?") from None


def _wish(header: str) -> float | None:
    try:
        seconds = float(header)
    except ValueError:
        return None
    return min(seconds, _LONGEST_WAIT_SECONDS) if math.isfinite(seconds) and seconds > 0 else None
