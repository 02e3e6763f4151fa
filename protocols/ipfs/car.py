"""CAR version 1: blocks on the wire or in a file, each with its CID.

Source: https://ipld.io/specs/transport/car/carv1/. Reading is by push, so that one parser serves files, threads
and coroutines; every block is verified as it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protocols.ipfs.car_header import decode_header, encode_header
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import BlockTooLarge, InvalidBlock, InvalidCID, TruncatedCar
from protocols.ipfs.reader import MAX_BLOCK_BYTES
from protocols.ipfs.varint import LONGEST_BYTES, decode_varint, encode_varint

_MAX_HEADER_BYTES = 8192
_MAX_CID_BYTES = 256


def write_car(root: CID, blocks: Iterable[tuple[CID, bytes]]) -> Iterator[bytes]:
    """The CAR with that root and these blocks, piece by piece."""
    header = encode_header([root])
    yield encode_varint(len(header)) + header
    for cid, block in blocks:
        name = bytes(cid)
        yield encode_varint(len(name) + len(block)) + name
        yield block


def read_car(chunks: Iterable[bytes]) -> Iterator[tuple[CID, bytes]]:
    """The verified blocks of a CAR that comes in `chunks` of any size.

    Raises InvalidBlock for anything that is not a CAR or does not match, TruncatedCar if it ends too early.
    """
    parser = CarParser()
    for chunk in chunks:
        yield from parser.feed(chunk)
    parser.finish()


class CarParser:
    """Takes a CAR in pieces and gives its verified blocks.

    `roots` are those that the header names: a reader who knows what it wants has no use for them.
    """

    def __init__(self) -> None:
        self.roots: tuple[CID, ...] = ()
        self._buffer = bytearray()
        self._header_read = False

    def feed(self, chunk: bytes) -> Iterator[tuple[CID, bytes]]:
        """Take the next piece; gives the blocks that are complete with it. Raises InvalidBlock."""
        self._buffer += chunk
        position = 0
        try:
            while (section := self._section(position)) is not None:
                start, position = section
                if self._header_read:
                    block = self._block(bytes(memoryview(self._buffer)[start:position]))
                    if block is not None:
                        yield block
                else:
                    self.roots = decode_header(bytes(self._buffer[start:position]))
                    self._header_read = True
        finally:
            del self._buffer[:position]

    def finish(self) -> None:
        """Return if the CAR ended where a CAR may end. Raises TruncatedCar."""
        if self._buffer or not self._header_read:
            raise TruncatedCar("the CAR is cut short")

    def _section(self, position: int) -> tuple[int, int] | None:
        """Where the section at `position` has its content, or None until all of it is here."""
        head = bytes(self._buffer[position : position + LONGEST_BYTES])
        try:
            length, offset = decode_varint(head)
        except EOFError:
            return None
        except ValueError as error:
            raise InvalidBlock(f"no CAR: {error}") from None
        most = MAX_BLOCK_BYTES + _MAX_CID_BYTES if self._header_read else _MAX_HEADER_BYTES
        if length > most:
            raise BlockTooLarge(f"no CAR that we read: a section of {length} bytes")
        if length <= 0:
            raise InvalidBlock("no CAR: a section of no bytes")
        start = position + offset
        return (start, start + length) if start + length <= len(self._buffer) else None

    @staticmethod
    def _block(section: bytes) -> tuple[CID, bytes] | None:
        """The verified block, or None if nothing here can verify it: a link to it is refused where it is read.

        Whoever made the content chose its hash function, not whoever sends it.
        """
        try:
            cid, start = CID.read(section)
        except InvalidCID as error:
            raise InvalidBlock(f"no CAR that we read: {error.message}") from None
        block = section[start:]
        if len(block) > MAX_BLOCK_BYTES:
            raise BlockTooLarge(f"{cid}: a block of {len(block)} bytes is larger than any may be")
        if not cid.verifiable:
            return None
        cid.verify(block)
        return cid, block
