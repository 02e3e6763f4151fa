"""The tree over the rows of the product: RFC 6962's, whose leaves and nodes are hashed apart (section 2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

LEAF = b"\x00"
NODE = b"\x01"
DIGEST_BYTES = 32


def leaf_of(row: bytes | memoryview) -> bytes:
    """The leaf of a row: its entries as little-endian int32."""
    digest = hashlib.sha256(LEAF)
    digest.update(row)
    return digest.digest()


class Tree:
    """The tree over `leaves`, of which there must be one at least."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        # RFC 6962 splits at the largest power of two below the count. Pairing neighbours, and carrying up the one that
        # is left over, gives the same tree.
        while len(level := self._levels[-1]) > 1:
            paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            self._levels.append([*paired, level[-1]] if len(level) % 2 else paired)

    @property
    def root(self) -> str:
        """In hex."""
        return self._levels[-1][0].hex()

    def path(self, index: int) -> tuple[str, ...]:
        """The siblings from the leaf upwards, in hex. IndexError if there is no such leaf."""
        if not 0 <= index < len(self._levels[0]):
            raise IndexError(f"there is no row {index}")
        path = []
        for level in self._levels[:-1]:
            if (sibling := index ^ 1) < len(level):
                path.append(level[sibling].hex())
            index //= 2
        return tuple(path)


def root_of_path(leaf: bytes, index: int, count: int, path: Sequence[str]) -> str:
    """The root to which `path` leads from the leaf at `index` of `count`; empty if it cannot be a path.

    On which side a sibling stands follows from the index alone.
    """
    siblings = iter(path)
    node = leaf
    try:
        while count > 1:
            if index ^ 1 < count:
                sibling = bytes.fromhex(next(siblings))
                if len(sibling) != DIGEST_BYTES:
                    return ""
                node = _node(sibling, node) if index % 2 else _node(node, sibling)
            index, count = index // 2, (count + 1) // 2
    except (StopIteration, ValueError):
        return ""
    return "" if next(siblings, None) is not None else node.hex()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()
