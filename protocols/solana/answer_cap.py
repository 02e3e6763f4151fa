"""A cap on what a node may answer, while it comes in: solana-py reads every answer whole, however long it is."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2

from millrace.limits import MIB

MOST_BYTES = 16 * MIB
"""Of any answer but a listing: 100 accounts of ours are some 100 kB."""

MOST_LISTING_BYTES = 256 * MIB
"""Of a listing: 100,000 accounts are 23 to 64 MB, depending on how the node writes them."""

LISTINGS = frozenset({"getProgramAccounts"})
"""Calls whose answer grows with what others put on the chain."""

_PIECE_BYTES = 65_536
_GZIP_WINDOW_BITS = 31

_most_bytes: ContextVar[int] = ContextVar("most_bytes", default=MOST_BYTES)


class AnswerTooLarge(httpx2.TransportError):
    """An answer has more bytes than any right one."""


class AnswerUnreadable(httpx2.TransportError):
    """An answer is compressed in a way that was not asked for, or badly."""


@contextmanager
def cap_for(method: str) -> Iterator[None]:
    """The answers read inside are to calls of `method`."""
    token = _most_bytes.set(MOST_LISTING_BYTES if method in LISTINGS else MOST_BYTES)
    try:
        yield
    finally:
        _most_bytes.reset(token)


def cap_answers(session: httpx2.AsyncClient) -> None:
    """Have `session` read no answer beyond the cap, nor unpack one beyond it.

    A compressed answer is unpacked piece by piece here: in the client's own hands a few kilobytes can become
    gigabytes before anybody can look.
    """
    session.headers["Accept-Encoding"] = "gzip"
    session.event_hooks["response"].append(_cap)


async def _cap(response: httpx2.Response) -> None:
    encoding = response.headers.pop("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise AnswerUnreadable("the answer is compressed in a way that was not asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _CappedStream(response.stream, _most_bytes.get(), packed=encoding == "gzip")


class _CappedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most_bytes: int, *, packed: bool) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self._packed = packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total_bytes = 0
        async for piece in self._unpacked() if self._packed else self._stream:
            total_bytes += len(piece)
            if total_bytes > self._most_bytes:
                raise AnswerTooLarge(f"the answer has more than {self._most_bytes} bytes")
            yield piece

    async def _unpacked(self) -> AsyncIterator[bytes]:
        unpacking = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            async for packed in self._stream:
                rest = packed
                while rest and not unpacking.eof:
                    yield unpacking.decompress(rest, _PIECE_BYTES)
                    rest = unpacking.unconsumed_tail
            yield unpacking.flush(_PIECE_BYTES)
        except zlib.error:
            raise AnswerUnreadable("the answer is no proper gzip") from None

    async def aclose(self) -> None:
        await self._stream.aclose()
