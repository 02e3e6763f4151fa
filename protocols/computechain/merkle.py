"""ComputeChain's Merkle tree: SHA-256 over raw pairs, the last of an odd level twice, leaves and nodes alike.

It is not the tree of the challenge (RFC 6962); the two have nothing in common but the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence


def merkle_root(leaves: Sequence[bytes]) -> str:
    """The root over `leaves` (32 bytes each), in hex; empty if there are none. One leaf is its own root."""
    return list(_levels(leaves))[-1][0].hex() if leaves else ""


def merkle_path(leaves: Sequence[bytes], index: int) -> tuple[str, ...]:
    """The siblings, in hex and from the leaf upwards, that lead from `leaves[index]` to the root.

    Raises IndexError if there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} of {len(leaves)}")
    path = []
    for level in list(_levels(leaves))[:-1]:
        path.append(level[min(index ^ 1, len(level) - 1)].hex())
        index //= 2
    return tuple(path)


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[str]) -> str:
    """The root to which `path` leads from `leaf`, the one at `index` of `count`; empty if the path cannot be one.

    On which side a sibling stands follows from the index, so that a path is good for one place only.
    """
    if not 0 <= index < count or len(path) != (count - 1).bit_length():
        return ""
    node = leaf
    for sibling in path:
        try:
            other = bytes.fromhex(sibling)
        except ValueError:
            return ""
        last_of_odd = index == count - 1 and count % 2 == 1
        if len(other) != 32 or (last_of_odd and other != node):
            return ""
        node = hashlib.sha256(other + node if index % 2 else node + other).digest()
        index, count = index // 2, (count + 1) // 2
    return node.hex()


def _levels(leaves: Sequence[bytes]) -> Iterator[list[bytes]]:
    level = list(leaves)
    while True:
        yield level
        if len(level) == 1:
            return
        paired = [*level, level[-1]] if len(level) % 2 else level
        level = [hashlib.sha256(paired[i] + paired[i + 1]).digest() for i in range(0, len(paired), 2)]
