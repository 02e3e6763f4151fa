"""Read an HTTP body that a stranger sends: capped while it streams, and never decompressed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from millrace.text import printable
from protocols.ipfs.errors import ContentRefused

IDENTITY = {"Accept-Encoding": "identity"}
"""Headers of every request: a compressed body is refused, because a small one can unpack to any size."""

_LONGEST_WAIT_SECONDS = 3600.0


async def capped_body(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's pieces as they come. Raises ContentRefused above `max_bytes` or if it is compressed."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ContentRefused(f"the answer is compressed ({printable(encoding, 40)}), which was not asked for")
    declared = response.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise ContentRefused(f"the answer has {declared[:20]} bytes, and at most {max_bytes} can be right")
    total_bytes = 0
    async for piece in response.aiter_raw():
        total_bytes += len(piece)
        if total_bytes > max_bytes:
            raise ContentRefused(f"the answer has more than {max_bytes} bytes")
        yield piece


async def read_capped(response: httpx.Response, max_bytes: int) -> bytes:
    """The whole body. Raises as `capped_body` does."""
    return b"".join([piece async for piece in capped_body(response, max_bytes)])


def retry_after_seconds(headers: httpx.Headers, clock: Callable[[], float]) -> float | None:
    """How long the other side wants us to wait, at most an hour, or None if it does not say.

    Reads `Retry-After` (RFC 9110, section 10.2.3: seconds or a date), then `X-RateLimit-Reset` (Unix seconds).
    `clock` gives Unix seconds.
    """
    wish = _retry_after(headers.get("Retry-After", ""), clock)
    reset = headers.get("X-RateLimit-Reset", "")
    if wish is None and reset.isascii() and reset.isdigit():
        wish = int(reset[:15]) - clock()
    return None if wish is None else min(max(wish, 0.0), _LONGEST_WAIT_SECONDS)


def _retry_after(text: str, clock: Callable[[], float]) -> float | None:
    if text.isascii() and text.isdigit():
        return float(text[:15])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a number that no date has room for
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - clock()
