"""Checking an answer for much less than it cost: some rows against the root, or all of it by Freivalds' test."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stages.execute.matmul.challenge import LARGEST_ENTRY, PORTABLE, Challenge
from stages.execute.matmul.entries import Float32, entries
from stages.execute.matmul.memory import panel_rows
from stages.execute.matmul.numpy_device import to_rows
from stages.execute.matmul.sampling import demanded_rows
from stages.execute.matmul.solution import VERSION, SampledRow, Solution
from stages.execute.matmul.tree import Tree, leaf_of, root_of_path

LEAST_ROWS = 4
"""A proof that shows fewer is refused, unless the product has no more: each shown row catches a wrong one by chance."""

MOST_BUNDLE_BYTES = 128 * 1024 * 1024
"""256 rows of n = 65,535 are 90 MB in base64."""

_ERROR_BITS = 64
_DOUBLE_BITS = 52
"""Integers up to 2^52 are exact in float64, with one bit to spare."""


@dataclass(frozen=True)
class Verdict:
    """Whether the answer is right as far as it was checked; `detail` says what was checked, or what is wrong."""

    valid: bool
    detail: str


def verify(solution: Solution, *, product: NDArray[np.int32] | None = None) -> Verdict:
    """Check a solution: with the whole `product` at hand (shape (n, n)) all of it, else the rows that it shows.

    The whole product is wrong and passes with a chance of at most 2^-64. From the rows, a product with w wrong rows
    passes with a chance of about (1 - w/n)^rows.
    """
    challenge = solution.challenge
    if challenge.algorithm != PORTABLE:
        return Verdict(False, f"{challenge.algorithm} cannot be checked: other cards, and other versions, differ")
    if product is None:
        return _verify_rows(challenge, solution.root, solution.rows)
    if (wrong := _wrong_root(challenge, solution.root, product)) or (wrong := freivalds(challenge, product)):
        return Verdict(False, wrong)
    return Verdict(True, "the whole product, by Freivalds' test")


def verify_bundle(challenge: Challenge, root: str, bundle: str) -> Verdict:
    """Check the rows in a proof bundle, which comes from a stranger, against `root`. Never raises for its content."""
    if len(bundle) > MOST_BUNDLE_BYTES:
        return Verdict(False, "the bundle is larger than any can be")
    solution = read_bundle(bundle)
    if solution is None:
        return Verdict(False, "this is no proof bundle")
    if solution.version != VERSION:
        return Verdict(False, f"the bundle has version {solution.version}, this program knows {VERSION}")
    if solution.challenge != challenge:
        return Verdict(False, "the bundle is about another challenge")
    if solution.root != root:
        return Verdict(False, "the bundle is about another root")
    return verify(solution)


def read_bundle(bundle: str) -> Solution | None:
    """The solution that a bundle holds, unchecked; None if it holds none."""
    try:
        return Solution.model_validate_json(bundle)
    except (ValidationError, ValueError, RecursionError):
        return None


def _verify_rows(challenge: Challenge, root: str, rows: Sequence[SampledRow]) -> Verdict:
    """Whether these are the rows that the root demands, are right, and are under it."""
    n = challenge.n
    if len(rows) < min(LEAST_ROWS, n):
        return Verdict(False, f"the proof shows {len(rows)} rows, {min(LEAST_ROWS, n)} is the least")
    demanded = demanded_rows(challenge.seed, root, n, len(rows))
    if tuple(row.index for row in rows) != demanded:
        return Verdict(False, "the proof shows other rows than its root demands")
    shown = [_decoded(row.row, n) for row in rows]
    for row, content in zip(rows, shown, strict=True):
        if content is None or root_of_path(leaf_of(content), row.index, n, row.path) != root:
            return Verdict(False, f"row {row.index} is not under the root")
    a = np.concatenate([entries(challenge, "A", index, 1) for index in demanded])
    right = to_rows(times_b(challenge, a))
    for row, content, computed in zip(rows, shown, right, strict=True):
        if content != computed.tobytes():
            return Verdict(False, f"row {row.index} is wrong")
    return Verdict(True, f"{len(rows)} of {n} rows")


def times_b(challenge: Challenge, a: Float32) -> Float32:
    """`a` (shape (k, n)) times B, a panel of B at a time, so that all of B need not be there at once."""
    n = challenge.n
    total = np.zeros((len(a), n), np.float32)
    step = panel_rows(n)
    for start in range(0, n, step):
        panel = entries(challenge, "B", start, min(step, n - start))
        total += a[:, start : start + len(panel)] @ panel
    return total


def _decoded(row: str, n: int) -> bytes | None:
    try:
        content = base64.b64decode(row, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Some bytes have several spellings; a proof has one.
    return content if len(content) == 4 * n and base64.b64encode(content).decode() == row else None


def _wrong_root(challenge: Challenge, root: str, product: NDArray[np.int32]) -> str:
    """What is wrong with the product's shape or root; empty if nothing is."""
    if product.shape != (challenge.n, challenge.n) or product.dtype != np.dtype("<i4"):
        return f"the product is not {challenge.n} rows of as many little-endian int32"
    rows = np.ascontiguousarray(product)
    if Tree([leaf_of(memoryview(row).cast("B")) for row in rows]).root != root:
        return "the product is not the one under the root"
    return ""


def freivalds(challenge: Challenge, product: NDArray[np.int32]) -> str:
    """What is wrong with `product`; empty if it is A·B, but for a chance of 2^-64.

    With random vectors x of whole numbers below 2^k, A(Bx) is compared with Cx. If a row of C is wrong by d, which is
    not 0, then d·x = 0 for at most one in 2^k of the x (Freivalds 1977; Schwartz 1980). k is as large as exact sums in
    float64 allow: |A(Bx)| < (16 n)^2 2^k.
    """
    n = challenge.n
    if max(int(product.max()), -int(product.min())) > LARGEST_ENTRY * LARGEST_ENTRY * n:
        return "the product has an entry that none can be"
    bits = _DOUBLE_BITS - 2 * (LARGEST_ENTRY * n).bit_length()
    trials = -(-_ERROR_BITS // bits)
    drawn = np.frombuffer(secrets.token_bytes(8 * n * trials), np.uint64) >> np.uint64(64 - bits)
    x = drawn.reshape(n, trials).astype(np.float64)
    step = panel_rows(n)
    bx = np.concatenate([entries(challenge, "B", at, min(step, n - at)).astype(np.float64) @ x for at in _starts(n)])
    for at in _starts(n):
        of_a = entries(challenge, "A", at, min(step, n - at)).astype(np.float64) @ bx
        if not np.array_equal(of_a, product[at : at + step].astype(np.float64) @ x):
            return f"a row from {at} on is wrong"
    return ""


def _starts(n: int) -> range:
    return range(0, n, panel_rows(n))
