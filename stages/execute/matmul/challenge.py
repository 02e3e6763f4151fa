"""The challenge: two matrices that a block's hash and an address determine, and the product that is asked for.

`matmul-i32-v1`, side n. seed = SHA-256 of block hash (hex, lower case) and address. For M in "A", "B": the key of
Philox4x64-10 is the first half of SHA-256(seed + M), two little-endian uint64; its words are little-endian bytes, and
an entry is (byte & 31) - 16, row after row. C = A·B is asked for, as the root of a tree over its rows.

`matmul-f64-cupy` is the public sample: random doubles of one card's generator. Other cards give other bytes, and
nothing but a second run on the same kind of card can tell whether they are right.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Algorithm = Literal["matmul-i32-v1", "matmul-f64-cupy"]
PORTABLE: Algorithm = "matmul-i32-v1"

LARGEST_SIDE = 65_535
"""Entries are at most 16 in size, so |C| <= 256 n: below 2^24, up to which float32 has every integer."""

ENTRY_SPAN = 32
LARGEST_ENTRY = 16
"""An entry is from -16 to 15."""


class Challenge(BaseModel):
    """What is to be computed; `n` is the side of the matrices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    worker_address: str = Field(min_length=1, max_length=100)
    n: int = Field(ge=1, le=LARGEST_SIDE)
    algorithm: Algorithm = PORTABLE

    @property
    def seed(self) -> bytes:
        """32 bytes, from which both matrices follow."""
        return hashlib.sha256((self.block_hash + self.worker_address).encode()).digest()

    def stream_key(self, matrix: Literal["A", "B"]) -> tuple[int, int]:
        """The key of Philox for one of the two matrices, as two unsigned 64-bit words."""
        digest = hashlib.sha256(self.seed + matrix.encode()).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
