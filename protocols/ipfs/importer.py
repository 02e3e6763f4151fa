"""Import a file: cut it into chunks, hash them, and build the tree above them as the bytes stream past."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from protocols.ipfs.cid import CID, DAG_PB, RAW
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.profiles import PROFILES, V1, Profile
from protocols.ipfs.unixfs import encode_file

Put = Callable[[CID, bytes], None]
"""Takes each block as it is made, children before parents."""


def _forget(cid: CID, block: bytes) -> None:
    """Take a block and keep nothing: for callers who only want the CID."""


class Imported(NamedTuple):
    """An imported file or part of one: `dag_bytes` counts its blocks, `file_bytes` the bytes of the file in it."""

    cid: CID
    dag_bytes: int
    file_bytes: int


def import_file(source: bytes | BinaryIO, profile: Profile = V1, put: Put = _forget) -> Imported:
    """Import all of `source` the way `profile` says, handing every block to `put`.

    Memory stays at one chunk and one row of links a level, however long the file.
    """
    tree = _Tree(profile, put)
    for chunk in _chunks(source, profile.chunk_bytes):
        tree.add_chunk(chunk)
    return tree.root()


def import_blocks(source: bytes | BinaryIO, profile: Profile = V1) -> tuple[CID, dict[CID, bytes]]:
    """Import `source` and keep its distinct blocks in memory; returns the root's CID and the blocks."""
    blocks: dict[CID, bytes] = {}
    root = import_file(source, profile, blocks.__setitem__)
    return root.cid, blocks


def matching_profile(cid: CID, content: bytes) -> Profile | None:
    """The first profile under which `content` has the name `cid`, or None.

    A CID says nothing about how its file was cut, so that plain bytes can be verified only by trying.
    """
    for profile in PROFILES.values():
        if import_file(content, profile).cid.names_same_as(cid):
            return profile
    return None


def _chunks(source: bytes | BinaryIO, chunk_bytes: int) -> Iterator[bytes | memoryview]:
    """Every chunk but the last is full, whatever short reads the source gives; an empty file has no chunk."""
    if isinstance(source, bytes):
        view = memoryview(source)
        yield from (view[start : start + chunk_bytes] for start in range(0, len(view), chunk_bytes))
        return
    while chunk := source.read(chunk_bytes):
        while len(chunk) < chunk_bytes and (more := source.read(chunk_bytes - len(chunk))):
            chunk += more
        yield chunk


class _Tree:
    """The balanced tree of one file: `_levels[n]` holds the nodes of height n that have no parent yet."""

    def __init__(self, profile: Profile, put: Put) -> None:
        self._profile = profile
        self._put = put
        self._levels: list[list[Imported]] = [[]]

    def add_chunk(self, chunk: bytes | memoryview) -> None:
        self._push(0, self._leaf(chunk))

    def root(self) -> Imported:
        if not self._levels[0] and len(self._levels) == 1:
            return self._parent([]) if self._profile.wrap_single_leaf else self._leaf(b"")
        if self._profile.wrap_single_leaf and len(self._levels) == 1 and len(self._levels[0]) == 1:
            return self._parent(self._levels[0])
        height = 0
        # A last group of one child gets a parent as well, so that all leaves are at the same depth.
        while height < len(self._levels) - 1 or len(self._levels[height]) > 1:
            self._push(height + 1, self._parent(self._levels[height]))
            height += 1
        return self._levels[height][0]

    def _push(self, height: int, node: Imported) -> None:
        if height == len(self._levels):
            self._levels.append([])
        if len(self._levels[height]) == self._profile.width:
            full, self._levels[height] = self._levels[height], []
            self._push(height + 1, self._parent(full))
        self._levels[height].append(node)

    def _leaf(self, chunk: bytes | memoryview) -> Imported:
        if self._profile.raw_leaves:
            return self._block(RAW, chunk, len(chunk), len(chunk))
        block = encode_node([], encode_file(len(chunk), chunk))
        return self._block(DAG_PB, block, len(block), len(chunk))

    def _parent(self, children: list[Imported]) -> Imported:
        file_bytes = sum(child.file_bytes for child in children)
        block = encode_node(
            [Link(child.cid, "", child.dag_bytes) for child in children],
            encode_file(file_bytes, block_sizes=[child.file_bytes for child in children]),
        )
        return self._block(DAG_PB, block, len(block) + sum(child.dag_bytes for child in children), file_bytes)

    def _block(self, codec: int, block: bytes | memoryview, dag_bytes: int, file_bytes: int) -> Imported:
        # Version 0 can name dag-pb only: raw leaves below such a node are version 1.
        cid = CID.of(block, codec, 1 if codec == RAW else self._profile.cid_version)
        if self._put is not _forget:  # a chunk in memory is copied only for somebody who keeps it
            self._put(cid, bytes(block))
        return Imported(cid, dag_bytes, file_bytes)
