"""What can go wrong with content that is named by its hash, as one family.

Permanent
 ├─ InvalidCID          the text or bytes are no CID that we read
 ├─ InvalidBlock        bytes do not match their CID, or their CAR is broken: whoever sent them is to blame
 │   ├─ TruncatedCar    the CAR ends in the middle: its sender may do better next time
 │   └─ BlockTooLarge   not read, and so not shown to be wrong: it says nothing about its sender
 ├─ InvalidDag          the blocks match their CIDs but are no proper UnixFS: nobody can send better ones
 ├─ UnsupportedContent  proper, but not what we read: a HAMT directory, a symlink, another hash function
 ├─ LimitExceeded       more bytes, blocks or levels than the reader allows, proven by verified blocks
 ├─ ContentRefused      this place will never give us the content
 └─ PublishRefused      this place will never take the content, or answered with another CID
Transient
 ├─ ContentUnavailable  nobody gave us the content this time
 ├─ StoreFault          the embedded store's disk did not do what it should
 │   └─ StoreFull       what must be kept leaves no room under the quota
 └─ PublishFailed       the content may or may not be there: publishing is idempotent, so publish again
"""

from __future__ import annotations

from millrace.errors import Permanent, Transient


class InvalidCID(Permanent):
    """The text or bytes are no CID that we read."""


class InvalidBlock(Permanent):
    """Bytes do not match their CID, or the CAR they came in is broken."""


class TruncatedCar(InvalidBlock):
    """A CAR ends in the middle of a section."""


class BlockTooLarge(InvalidBlock):
    """A block is larger than any that is read here."""


class InvalidDag(Permanent):
    """The blocks match their CIDs but do not make up a proper UnixFS file or directory."""


class UnsupportedContent(Permanent):
    """The content is proper but of a kind that is not read here."""


class LimitExceeded(Permanent):
    """The content has more bytes, blocks or levels than the reader allows."""


class ContentRefused(Permanent):
    """The place that was asked will never give us this content."""


class PublishRefused(Permanent):
    """The place that was asked will never take this content, or names it otherwise."""


class ContentUnavailable(Transient):
    """Nobody gave us the content this time."""


class PublishFailed(Transient):
    """The content could not be handed over this time; doing it again changes nothing that was done."""


class StoreFault(Transient):
    """The embedded store could not read or write its files."""


class StoreFull(StoreFault):
    """The pinned content alone leaves no room under the quota."""
