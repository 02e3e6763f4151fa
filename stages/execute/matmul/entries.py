"""The matrices' entries on a CPU: NumPy's own Philox, read where it is needed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.execute.matmul.challenge import ENTRY_SPAN, LARGEST_ENTRY, Challenge

_BYTES_A_WORD = 8
_WORDS_A_BLOCK = 4
"""Philox4x64 gives four words for each step of its counter."""

_PIECE_ROWS_BYTES = 1 << 22

Float32 = NDArray[np.float32]


def entries(challenge: Challenge, matrix: Literal["A", "B"], first_row: int, rows: int) -> Float32:
    """Rows `first_row` to `first_row + rows` of A or B, shape (rows, n), as float32."""
    n = challenge.n
    made = np.empty((rows, n), np.float32)
    step = max(1, _PIECE_ROWS_BYTES // n)  # small enough for the processor's caches
    for start in range(0, rows, step):
        piece = made[start : start + step]
        raw = _stream(challenge.stream_key(matrix), (first_row + start) * n, piece.size)
        np.bitwise_and(raw, ENTRY_SPAN - 1, out=raw)
        np.subtract(raw.reshape(piece.shape), np.float32(LARGEST_ENTRY), out=piece)
    return made


def _stream(key: tuple[int, int], first_byte: int, count: int) -> NDArray[np.uint8]:
    """Bytes `first_byte` to `first_byte + count` of the Philox stream with that key."""
    first_word, skipped_bytes = divmod(first_byte, _BYTES_A_WORD)
    first_block, skipped_words = divmod(first_word, _WORDS_A_BLOCK)
    generator = np.random.Philox(key=np.array(key, np.uint64)).advance(first_block)
    skipped = skipped_words * _BYTES_A_WORD + skipped_bytes
    words = generator.random_raw(-(-(skipped + count) // _BYTES_A_WORD))
    return words.astype("<u8", copy=False).view(np.uint8)[skipped : skipped + count]
