"""Verified content, and how it comes out of a CAR that streams in from somebody we do not trust."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.ipfs.car import CarParser
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import ContentRefused, ContentUnavailable, InvalidBlock, LimitExceeded
from protocols.ipfs.importer import matching_profile
from protocols.ipfs.reader import ReadLimits, file_bytes_of, read_file


@dataclass(frozen=True, slots=True)
class Verified:
    """The bytes of a file, proven to be what its CID names; `blocks` by multihash, where they came as blocks."""

    cid: CID
    content: bytes
    blocks: dict[bytes, bytes] = field(default_factory=dict, repr=False)


def verify_plain(cid: CID, content: bytes) -> Verified:
    """Prove that plain bytes are what `cid` names: by one hash for a raw block, else by trying the known profiles.

    Raises InvalidBlock if a raw block does not match, ContentUnavailable if no profile gives this CID: then the
    bytes may be right, but nothing shows it.
    """
    if cid.codec == RAW or cid.inline is not None:
        proven = b"".join(read_file(cid, lambda _: content, ReadLimits(max_bytes=len(content))))
        if proven != content:
            raise InvalidBlock(f"{len(content)} bytes are not what {cid} holds")
    elif matching_profile(cid, content) is None:
        raise ContentUnavailable(f"{len(content)} plain bytes match {cid} under no known way to import a file")
    return Verified(cid, content)


class CarCollector:
    """Gathers the blocks of one file from a CAR, within limits, and reads the file from them."""

    def __init__(self, root: CID, limits: ReadLimits) -> None:
        self._root = root
        self._limits = limits
        self._parser = CarParser()
        self._blocks: dict[bytes, bytes] = {}
        self._room_bytes = limits.room_bytes
        self._room_blocks = limits.max_blocks

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the CAR.

        Raises InvalidBlock for bytes that do not match, ContentRefused for more of them than the content can have,
        LimitExceeded as soon as the root shows that the file is too large, UnsupportedContent and InvalidDag if it
        shows no file.
        """
        self._room_bytes -= len(chunk)
        if self._room_bytes < 0:
            raise ContentRefused(f"more bytes came than {self._root} can have within {self._limits}")
        for cid, block in self._parser.feed(chunk):
            self._room_blocks -= 1
            if self._room_blocks < 0:
                raise ContentRefused(f"more blocks came than {self._root} can have within {self._limits}")
            self._blocks.setdefault(cid.multihash, block)
            if cid.names_same_as(self._root) and file_bytes_of(cid, block) > self._limits.max_bytes:
                raise LimitExceeded(f"{cid} is larger than the {self._limits.max_bytes} bytes allowed")

    def read(self) -> Verified:
        """The file, once all of the CAR is here.

        Raises TruncatedCar, ContentUnavailable if blocks are missing, and as `read_file` does.
        """
        self._parser.finish()
        used: dict[bytes, bytes] = {}

        def block_of(cid: CID) -> bytes:
            block = self._blocks.get(cid.multihash)
            if block is None:
                raise ContentUnavailable(f"{self._root}: the CAR came without block {cid}")
            used[cid.multihash] = block
            return block

        content = b"".join(read_file(self._root, block_of, self._limits))
        return Verified(self._root, content, used)
