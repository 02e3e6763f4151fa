"""JSON over HTTP with one server: one call at a time, bounded in bytes and seconds, its failures as errors of ours."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx

from millrace.errors import Transient
from millrace.limits import MIB
from millrace.redaction import register_secret
from millrace.text import printable

MOST_BYTES = 64 * MIB
"""Of any answer, unless a caller says otherwise."""

_LONGEST_WAIT_SECONDS = 300.0
_WITHOUT_JSON = (204, 401, 403)
"""No content; and what a proxy that does not know us felt like saying."""
_SHORTEST_KEY = 16
"""A shorter part of a path or a query is a word like `mainnet`, which must stay readable."""


@dataclass(frozen=True)
class Answer:
    """A server's answer: its HTTP status and the JSON in it; None if there is nothing, or we are not let in."""

    status: int
    body: Any


@dataclass(frozen=True)
class Content:
    """A server's answer as it came: its HTTP status and the bytes in it."""

    status: int
    content: bytes


@dataclass(frozen=True)
class Form:
    """A multipart form: `fields` by name, and `files` as (file name, content, content type) by name."""

    fields: dict[str, str]
    files: dict[str, tuple[str, bytes, str]]


class Unreadable(Transient):
    """A server answers something that is no answer; another may do better, or the same one later."""


class Redirected(Unreadable):
    """A server says that the answer is elsewhere; `location` is not to be trusted."""

    def __init__(self, message: str, *, location: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.location = location


class JsonServer:
    """One server. Redirects are not followed, and nothing compressed is asked for: it may become anything.

    Arguments: `label` names it without its secrets; `base_url` is put before each path; `hint` is what to look at if
    it answers nonsense; `headers` go with every call.
    """

    def __init__(
        self,
        label: str,
        *,
        timeout_seconds: float,
        base_url: str = "",
        hint: str = "",
        most_bytes: int = MOST_BYTES,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.label = label
        self._hint = hint
        self._most_bytes = most_bytes
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=timeout_seconds, headers={"Accept-Encoding": "identity", **(headers or {})}
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: Any = None, *, timeout_seconds: float | None = None) -> Answer:
        """The answer to one call, whatever its status below 500, within `timeout_seconds` if they are not the usual.

        Raises Transient if the server does not answer now (also 429 and 5xx); Unreadable if what it answers is no
        JSON, or too much, or Redirected. After a Transient it may have taken what it was given.
        """
        said = await self.fetch(method, path, body, timeout_seconds=timeout_seconds)
        if said.status in _WITHOUT_JSON:
            return Answer(said.status, None)
        return Answer(said.status, parsed(said.content, self.label, self._hint))

    async def fetch(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        form: Form | None = None,
        headers: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
        most_bytes: int | None = None,
        read: bool = True,
    ) -> Content:
        """The bytes that one call is answered with, JSON or not; the body of a 204, 401 or 403 is not read.

        If `read` is False no body is: where the status says it all, a bad body is no failure.

        Arguments: `form` is sent instead of `body`; `headers` go with this call; the limits are the server's own
        unless given. Raises as `ask` does, but does not look into what it gets.
        """
        patience = timeout_seconds or self._timeout_seconds
        fields, files = (form.fields, form.files) if form else (None, None)
        try:
            async with (
                asyncio.timeout(patience),
                self._http.stream(
                    method, path, json=body, data=fields, files=files, headers=headers, timeout=patience
                ) as response,
            ):
                if response.status_code == 429 or response.status_code >= 500:
                    told = f"{self.label} answers with the status {response.status_code}"
                    raise Transient(told, retry_after_seconds=_wish(response.headers.get("Retry-After", "")))
                if response.is_redirect:
                    told = f"{self.label} answers with the status {response.status_code}, which is not followed"
                    raise Redirected(told, location=response.headers.get("Location", ""), hint=self._hint)
                if response.status_code in _WITHOUT_JSON or not read:
                    return Content(response.status_code, b"")
                return Content(response.status_code, await self._content(response, most_bytes or self._most_bytes))
        except TimeoutError:
            raise Transient(f"{self.label} did not answer within {patience:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            # Its text may quote the whole address. httpx reads a Location, followed or not: that may be no URL.
            raise Transient(f"{self.label} cannot be reached: {type(error).__name__}") from None

    async def _content(self, response: httpx.Response, most_bytes: int) -> bytes:
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > most_bytes:
                raise Unreadable(f"{self.label} answers with more than {most_bytes} bytes")
        return bytes(content)


def parsed(content: bytes, label: str, hint: str = "") -> Any:
    """The JSON that a server at `label` sent. Raises Unreadable."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        shown = printable(content[:100].decode(errors="replace"))
        raise Unreadable(f"{label} answers with what is no JSON: {shown}", hint=hint) from None


def origin_of(url: str) -> str | None:
    """Scheme, host and port of `url`, which may be printed; a key may travel in the rest. None if it is no http URL."""
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        host, port = parts.hostname, parts.port
    except (ValueError, httpx.InvalidURL):
        return None
    if not host or parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def mask_keys_in(url: str) -> None:
    """Keep what may be a provider's key in `url` (user, password, long parts of path and query) out of every log."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query)]
    words = [parts.path.strip("/"), *parts.path.split("/"), parts.query, *values]
    account = [parts.username or "", parts.password or ""]
    for secret in (*account, *(word for word in words if len(word) >= _SHORTEST_KEY)):
        register_secret(secret)
        register_secret(unquote(secret))


def _wish(header: str) -> float | None:
    try:
        seconds = float(header)
    except ValueError:
        return None
    return min(seconds, _LONGEST_WAIT_SECONDS) if math.isfinite(seconds) and seconds > 0 else None
