"""One node's HTTP interface: one call at a time, bounded in bytes and seconds, its failures as errors of ours."""

from __future__ import annotations

import asyncio
import json
import math
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
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Permanent(
                "one of the ComputeChain nodes is not an http or https URL",
                hint="check MILLRACE_COMPUTECHAIN__RPC_URLS",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.label = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
        for secret in (parts.password or "", parts.path.strip("/"), parts.query):
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
