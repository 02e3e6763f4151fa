"""Which rows a proof must show. They follow from the root, so that whoever commits to it cannot choose them.

The Fiat-Shamir heuristic: the root stands for the verifier's dice. To hide one wrong row among n a prover would have
to try roots until it is not asked for, and each root takes the whole work again.
"""

from __future__ import annotations

import hashlib
from itertools import count

_DOMAIN = b"millrace matmul rows 1"


def demanded_rows(seed: bytes, root: str, n: int, rows: int) -> tuple[int, ...]:
    """The indices, in order and each once, of min(rows, n) rows of the product whose tree has that root (hex)."""
    wanted = min(rows, n)
    found: list[int] = []
    for number in count():
        if len(found) == wanted:
            return tuple(sorted(found))
        digest = hashlib.sha256(_DOMAIN + seed + bytes.fromhex(root) + number.to_bytes(8, "little")).digest()
        # 128 bits: that n does not divide their range shifts each row's chance by less than 2^-112.
        if (index := int.from_bytes(digest[:16], "little") % n) not in found:
            found.append(index)
    raise AssertionError("counting does not end")
