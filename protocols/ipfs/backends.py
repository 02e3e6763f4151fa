"""The two small interfaces behind which content comes and goes; one module each back end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocols.ipfs.cid import CID
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.verified import Verified


@dataclass(frozen=True, slots=True)
class Published:
    """A place confirmed that it keeps the content under this CID, as the place spells it."""

    place: str
    cid: str


class ContentPlace(Protocol):
    """A place outside this machine, or another process on it."""

    @property
    def name(self) -> str:
        """What people call this place."""
        ...

    async def check(self) -> str:
        """Return, with what it says of itself if anything, if the place answers as one of its kind and lets us in.

        Raises ContentUnavailable, ContentRefused, PublishFailed or PublishRefused.
        """
        ...


class ContentSource(ContentPlace, Protocol):
    """A place that content can be read from."""

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        """The content named `cid`, every byte verified.

        Raises ContentUnavailable if the place may have it later, ContentRefused if it never will, InvalidBlock
        if it sent something else; LimitExceeded, UnsupportedContent or InvalidDag if the content itself, proven
        by its hashes, is not to be read: then no other place can help.
        """
        ...

    async def fetch_block(self, cid: CID, timeout_seconds: float) -> bytes:
        """The one block named `cid`, verified; errors as `fetch`, of which only the first three can come."""
        ...


class ContentSink(ContentPlace, Protocol):
    """A place that keeps content for others to read."""

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Hand over `content`, a file imported under V1 as `cid`; returns once the place confirmed that very CID.

        Doing it twice changes nothing. `name` is a label for people. Raises PublishFailed if trying again may
        help, PublishRefused if not.
        """
        ...
