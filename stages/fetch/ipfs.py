"""Fetch content by its CID into the embedded store, from which every later stage reads it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from protocols.ipfs.cid import CID
from protocols.ipfs.content import EMBEDDED_STORE, Content
from protocols.ipfs.errors import ContentUnavailable


class Fetched(BaseModel):
    """Content that is in the embedded store now."""

    model_config = ConfigDict(frozen=True)

    cid: str = Field(description="The file's CID: as it was asked for, or what the path asked for led to")
    size_bytes: int
    sha256: str = Field(description="Of the file's bytes, in hex")
    source: str = Field(description="Where it came from: `embedded store`, `daemon` or a gateway's address")


async def fetch_content(cid: str, max_bytes: int, *, content: Content) -> Fetched:
    """Fetch the file named `cid`, of at most `max_bytes` and within the content's own limits, and keep it.

    A directory's CID may be followed by the path of a file in it, `<cid>/src/main.py`.
    Looks in the embedded store, then asks the other places; every byte is verified against the CID. Raises
    InvalidCID; LimitExceeded, UnsupportedContent or InvalidDag if the content is not to be read; ContentRefused
    if no place will ever give it; ContentUnavailable if trying again may help.
    """
    name, slash, path = cid.partition("/")
    wanted = CID.parse(name)
    if slash:
        wanted = await content.resolve(wanted, path)
    limits = replace(content.limits, max_bytes=min(max_bytes, content.limits.max_bytes))
    source = EMBEDDED_STORE
    try:
        found = await asyncio.to_thread(content.store.get, wanted, limits.max_bytes)
    except ContentUnavailable:
        found, source = await content.fetch_elsewhere(wanted, limits)
    digest = hashlib.sha256(found).hexdigest()
    return Fetched(cid=str(wanted) if slash else cid, size_bytes=len(found), sha256=digest, source=source)
