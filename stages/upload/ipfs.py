"""Upload content: name it, keep it, and hand it to every place that is configured."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from protocols.ipfs.content import EMBEDDED_STORE, Content


class Uploaded(BaseModel):
    """Content that every configured place confirmed to keep under its CID.

    With `embedded store` as the only place it is addressed, and nobody else can read it yet.
    """

    model_config = ConfigDict(frozen=True)

    cid: str
    size_bytes: int
    sha256: str = Field(description="Of the bytes, in hex")
    places: tuple[str, ...] = Field(description="Who keeps it: `embedded store`, `daemon`, `pinata`")

    @property
    def available_to_others(self) -> bool:
        """True if somebody besides this machine keeps it."""
        return self.places != (EMBEDDED_STORE,)


async def upload_content(document: bytes | str, name: str, *, content: Content) -> Uploaded:
    """Keep `document` (text as UTF-8) in the embedded store, pinned while nobody else does, and publish it.

    The CID is computed here before anything is sent, and every sink must confirm that same CID: there is no result
    before the last one did. Doing it again changes nothing. `name` is a label for people. Raises PublishFailed if
    trying again may help, PublishRefused if not.
    """
    raw = document.encode() if isinstance(document, str) else document
    cid = await asyncio.to_thread(partial(content.store.put, raw, pinned=True))
    places = [EMBEDDED_STORE]
    for sink in content.sinks:
        published = await sink.publish(cid, raw, name)
        places.append(published.place)
    if content.sinks:
        # Others have it now: it may go when room is needed.
        await asyncio.to_thread(content.store.unpin, cid)
    return Uploaded(cid=str(cid), size_bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest(), places=tuple(places))
