"""Read content out of blocks that strangers sent: nothing is believed that a hash or a sum does not prove.

The walk starts at the CID that was asked for, checks every block against its CID, every size against its parent
and every total against its parts, and stops at limits on bytes, blocks and depth: a few small blocks can spell
a file of any length by linking to each other many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from millrace.limits import MIB
from protocols.ipfs.cid import CID, DAG_PB, RAW
from protocols.ipfs.dag_pb import Link, decode_node
from protocols.ipfs.errors import BlockTooLarge, InvalidDag, LimitExceeded, UnsupportedContent
from protocols.ipfs.unixfs import Kind, UnixFS, decode_unixfs

MAX_BLOCK_BYTES = 2 * MIB
"""Larger blocks are not exchanged anywhere in the network, so a larger one is not content."""

FRAMING_BYTES_A_BLOCK = 256
"""What a block may cost beside the file's bytes in it: CIDs, lengths, its link in the parent."""

BlockOf = Callable[[CID], bytes]
"""Gives the block with that CID, verified or not. Raises ContentUnavailable if it has none."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one content may have; blocks are counted as often as the file repeats them."""

    max_bytes: int = 64 * MIB
    max_blocks: int = 4096
    max_depth: int = 32

    @property
    def room_bytes(self) -> int:
        """Most bytes of all blocks together, those of the tree included."""
        return self.max_bytes + FRAMING_BYTES_A_BLOCK * (self.max_blocks + 1)


@dataclass(frozen=True, slots=True)
class _FileNode:
    content: bytes
    file_bytes: int
    children: tuple[tuple[CID, int], ...]


def read_file(root: CID, block_of: BlockOf, limits: ReadLimits) -> Iterator[bytes]:
    """The bytes of the UnixFS file or raw block `root`, in order, each part verified before it is given out.

    Raises InvalidBlock for bytes that do not match, InvalidDag for sizes that do not add up, LimitExceeded, and
    UnsupportedContent for what is no file; whatever `block_of` raises passes through.
    """
    waiting = [(root, 0, -1)]
    blocks_left, bytes_left = limits.max_blocks, limits.room_bytes
    while waiting:
        cid, depth, promised_bytes = waiting.pop()
        blocks_left -= 1
        if depth > limits.max_depth:
            raise LimitExceeded(f"{root} is deeper than {limits.max_depth} levels")
        block = verified(cid, block_of)
        node = _file_node(cid, block)
        # Counted as soon as they are linked to: a block of empty links can name 200,000 others.
        if len(waiting) + len(node.children) > blocks_left:
            raise LimitExceeded(f"{root} has more than {limits.max_blocks} blocks")
        if depth == 0:
            _check_size(cid, node.file_bytes, limits)
        # Large blocks that hold next to nothing of the file would have us hash them over and over.
        bytes_left -= len(block)
        if bytes_left < 0:
            raise LimitExceeded(f"{root} spends more than {limits.room_bytes} bytes on its blocks")
        if depth and node.file_bytes != promised_bytes:
            raise InvalidDag(f"{cid} holds {node.file_bytes} bytes where its parent promised {promised_bytes}")
        if node.content:
            yield node.content
        waiting.extend((child, depth + 1, size) for child, size in reversed(node.children))


def file_bytes_of(root: CID, block: bytes) -> int:
    """How long the file is whose root block is `block`, which must be verified. Errors as in `read_file`."""
    return _file_node(root, block).file_bytes


def walk_dag(root: CID, block_of: BlockOf, limits: ReadLimits) -> Iterator[tuple[CID, bytes]]:
    """Every distinct block below `root`, parents first, whatever it is part of; inline ones are left out.

    `limits.max_bytes` bounds the blocks' own bytes here. Raises as `read_file` does.
    """
    waiting = [(root, 0)]
    seen: set[bytes] = set()
    total_bytes = 0
    while waiting:
        cid, depth = waiting.pop()
        if cid.inline is not None or cid.multihash in seen:
            continue
        seen.add(cid.multihash)
        block = verified(cid, block_of)
        total_bytes += len(block)
        if len(seen) > limits.max_blocks or depth > limits.max_depth or total_bytes > limits.max_bytes:
            raise LimitExceeded(f"{root} is larger than {limits}")
        yield cid, block
        links = decode_node(block).links if cid.codec == DAG_PB else ()
        waiting.extend((link.cid, depth + 1) for link in reversed(links))


def verified(cid: CID, block_of: BlockOf) -> bytes:
    """The block named `cid`, checked. Raises InvalidBlock; UnsupportedContent before anything is read."""
    cid.check_verifiable()
    block = cid.inline if cid.inline is not None else block_of(cid)
    if len(block) > MAX_BLOCK_BYTES:
        raise BlockTooLarge(f"{cid}: a block of {len(block)} bytes is larger than any may be")
    cid.verify(block)
    return block


def check_readable(cid: CID) -> None:
    """Raise UnsupportedContent if no file of that name can be read here, whatever its blocks are."""
    cid.check_verifiable()
    if cid.codec not in (RAW, DAG_PB):
        raise UnsupportedContent(f"{cid}: codec 0x{cid.codec:x} is not supported", hint="raw and dag-pb are")


def directory_links(cid: CID, block: bytes) -> tuple[Link, ...]:
    """The entries of the plain directory whose verified block is `block`.

    Raises UnsupportedContent for anything that is no plain directory.
    """
    if cid.codec != DAG_PB:
        raise UnsupportedContent(f"{cid} is a block of bytes, not a directory")
    node = decode_node(block)
    kind = decode_unixfs(node.content).kind
    if kind is not Kind.directory:
        raise _not_a("directory", cid, kind)
    return node.links


def _file_node(cid: CID, block: bytes) -> _FileNode:
    if cid.codec == RAW:
        return _FileNode(block, len(block), ())
    check_readable(cid)
    node = decode_node(block)
    unixfs = decode_unixfs(node.content)
    if unixfs.kind not in (Kind.file, Kind.raw):
        raise _not_a("file", cid, unixfs.kind)
    if len(unixfs.block_sizes) != len(node.links):
        raise InvalidDag(f"{cid} has {len(node.links)} links and {len(unixfs.block_sizes)} sizes")
    children = tuple((link.cid, size) for link, size in zip(node.links, unixfs.block_sizes, strict=True))
    return _FileNode(unixfs.content, _proven_size(cid, unixfs), children)


def _proven_size(cid: CID, unixfs: UnixFS) -> int:
    summed_bytes = len(unixfs.content) + sum(unixfs.block_sizes)
    if unixfs.file_bytes not in (None, summed_bytes):
        raise InvalidDag(f"{cid} says {unixfs.file_bytes} bytes and its parts add up to {summed_bytes}")
    return summed_bytes


def _check_size(cid: CID, file_bytes: int, limits: ReadLimits) -> None:
    if file_bytes > limits.max_bytes:
        raise LimitExceeded(
            f"{cid} is {file_bytes} bytes, and {limits.max_bytes} are allowed",
            hint="raise the limit for content if such sizes are expected",
        )


def _not_a(wanted: str, cid: CID, kind: Kind) -> UnsupportedContent:
    if kind is Kind.hamt_directory:
        hint = "sharded (HAMT) directories are not read here: publish the file by itself"
    elif kind is Kind.directory:
        hint = "give the CID of the file inside it"
    else:
        hint = "publish it as a plain file"
    return UnsupportedContent(f"{cid} is a {kind.name.replace('_', ' ')}, not a {wanted}", hint=hint)
