"""What the stand-ins keep: blocks in files, shared by all of them as the real network shares them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from protocols.ipfs.atomic import write_atomically
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable
from protocols.ipfs.importer import import_file
from protocols.ipfs.multibase import encode_base32
from protocols.ipfs.profiles import V1, Profile
from protocols.ipfs.reader import ReadLimits, read_file

LIMITS = ReadLimits(max_bytes=1 << 40, max_blocks=1 << 20, max_depth=64)


class BlockStore:
    """Blocks and pins in the folder `root`; what is in it stays from one start to the next."""

    def __init__(self, root: Path) -> None:
        self._blocks = root / "blocks"
        self._pins = root / "pins"

    def put(self, cid: CID, block: bytes) -> None:
        """Keep a block."""
        path = self._blocks / encode_base32(cid.multihash)
        if not path.exists():
            write_atomically(path, [block])

    def put_all(self, blocks: Iterable[tuple[CID, bytes]]) -> None:
        """Keep several blocks."""
        for cid, block in blocks:
            self.put(cid, block)

    def block_of(self, cid: CID) -> bytes:
        """The block with that CID. Raises ContentUnavailable."""
        if cid.inline is not None:
            return cid.inline
        try:
            return (self._blocks / encode_base32(cid.multihash)).read_bytes()
        except FileNotFoundError:
            raise ContentUnavailable(f"ipld: could not find {cid}") from None

    def add(self, content: bytes, profile: Profile = V1) -> CID:
        """Import a file and keep its blocks."""
        return import_file(content, profile, self.put).cid

    def read(self, cid: CID) -> bytes:
        """The file named `cid`. Raises as `read_file` does."""
        return b"".join(read_file(cid, self.block_of, LIMITS))

    def pin(self, cid: CID) -> None:
        """Pin content recursively."""
        write_atomically(self._pins / str(cid.to_v1()), [b""])

    def pins(self) -> list[CID]:
        """All pinned content."""
        return [CID.parse(path.name) for path in sorted(self._pins.glob("b*"))]
