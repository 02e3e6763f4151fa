"""One node's HTTP interface, and the endless answer of its event stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx

from millrace.errors import Permanent, Transient
from protocols.http_json import MOST_BYTES, Answer, JsonServer, Unreadable, mask_keys_in, origin_of, parsed

__all__ = ["MOST_BYTES", "MOST_LINE_BYTES", "Answer", "Endpoint", "Unreadable", "endpoint_label", "parsed"]

MOST_LINE_BYTES = 65_536
"""Of one line of the event stream."""

_HINT = "is it a ComputeChain node?"


class Endpoint(JsonServer):
    """A node at `url`."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        super().__init__(endpoint_label(url), base_url=url.rstrip("/"), timeout_seconds=timeout_seconds, hint=_HINT)
        mask_keys_in(url)

    async def get(self, path: str) -> Answer:
        """Raises Transient if it does not answer now; Unreadable if what it answers is no JSON, or too much."""
        return await self.ask("GET", path)

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        """As `get`. After a Transient the node may have taken what it was given."""
        return await self.ask("POST", path, body)

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
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise Transient(f"the stream of {self.label} broke off: {type(error).__name__}") from None


def endpoint_label(url: str) -> str:
    """Scheme, host and port of `url`, which may be printed; a key may travel in the rest.

    Raises Permanent, not quoting it, if it is no http or https URL, or has a query, which no path can follow.
    """
    origin = origin_of(url)
    if origin is None or httpx.URL(url).query or httpx.URL(url).fragment:
        raise Permanent(
            "one of the ComputeChain nodes is not an http or https URL, or one with a query",
            hint="check MILLRACE_COMPUTECHAIN__RPC_URLS",
        )
    return origin
