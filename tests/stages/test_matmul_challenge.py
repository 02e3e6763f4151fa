"""The challenge on a CPU: the golden vectors, a plain integer reference, and what must be refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.errors import Declined
from stages.execute.matmul.challenge import LARGEST_SIDE, Challenge
from stages.execute.matmul.entries import entries
from stages.execute.matmul.memory import cpu_bytes, ensure_fits
from stages.execute.matmul.numpy_device import solve_on_cpu
from stages.execute.matmul.sampling import demanded_rows
from stages.execute.matmul.tree import Tree, leaf_of, root_of_path

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "matmul_i32_v1.json").read_text())
ADDRESS = "cpc10xcqpzrky6eff2g52qdye53xkk9jxkvr2hadde"


def challenge_of(n: int, block_hash: str = "5a" * 32) -> Challenge:
    return Challenge(block_hash=block_hash, worker_address=ADDRESS, n=n)


def plain(challenge: Challenge) -> np.ndarray:
    """The product by integers alone, from the words of the definition."""

    def matrix(name: bytes) -> np.ndarray:
        half = hashlib.sha256(challenge.seed + name).digest()[:16]
        key = np.frombuffer(half, "<u8").astype(np.uint64)
        count = challenge.n * challenge.n
        words = np.random.Philox(key=key).random_raw(-(-count // 8)).astype("<u8").tobytes()
        return np.array([(byte & 31) - 16 for byte in words[:count]], np.int64).reshape(challenge.n, challenge.n)

    return matrix(b"A") @ matrix(b"B")


def plain_root(product: np.ndarray) -> str:
    """RFC 6962, section 2.1, word for word."""

    def hashed(rows: list[bytes]) -> bytes:
        if len(rows) == 1:
            return hashlib.sha256(b"\0" + rows[0]).digest()
        split = 1 << (len(rows) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + hashed(rows[:split]) + hashed(rows[split:])).digest()

    return hashed([row.astype("<i4").tobytes() for row in product]).hex()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"n={vector['n']}")
def test_the_golden_vectors(vector: dict[str, Any]) -> None:
    challenge = Challenge(**{name: vector[name] for name in ("block_hash", "worker_address", "n")})
    assert challenge.seed.hex() == vector["seed"]
    for name in ("A", "B"):
        assert list(entries(challenge, name, 0, challenge.n).ravel()[:8]) == vector[f"{name}_first_row_8"]
    solution = solve_on_cpu(challenge, 4)
    assert solution.root == vector["root"]
    product = plain(challenge)
    assert (list(product.ravel()[:4]), int(product.sum())) == (vector["C_first_row_4"], vector["C_sum"])
    assert leaf_of(product[0].astype("<i4").tobytes()).hex() == vector["leaf_0"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 160), st.binary(min_size=32, max_size=32))
def test_the_root_is_that_of_a_plain_integer_product(n: int, block_hash: bytes) -> None:
    challenge = challenge_of(n, block_hash.hex())
    assert solve_on_cpu(challenge, 1).root == plain_root(plain(challenge))


@pytest.mark.parametrize("n", [1_023, 1_024, 1_025, 2_500, 4_096])
def test_larger_sides_are_as_exact(n: int) -> None:
    """Several panels, and rows that begin in the middle of Philox's words."""
    challenge = challenge_of(n)
    solution = solve_on_cpu(challenge, 8)
    a, b = (entries(challenge, name, 0, n).astype(np.int64) for name in ("A", "B"))
    # float64 has every integer up to 2^53, so that BLAS is exact here as well, by another way.
    product = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    np.testing.assert_array_equal(product[[0, n // 2, n - 1]], a[[0, n // 2, n - 1]] @ b)
    assert solution.root == plain_root(product)


def test_the_largest_exact_side_is_exact_in_its_worst_case() -> None:
    """All entries -16: the largest sum that can be, as float32 adds it."""
    row = np.full((1, LARGEST_SIDE), -16, np.float32)
    assert int((row @ row.T)[0, 0]) == 256 * LARGEST_SIDE < 2**24


@given(st.integers(1, 300), st.data())
def test_a_row_is_the_same_wherever_reading_begins(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n - 1))
    whole = entries(challenge_of(n), "A", 0, n)
    np.testing.assert_array_equal(entries(challenge_of(n), "A", first, n - first), whole[first:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n": LARGEST_SIDE + 1},
        {"block_hash": "AB" * 32},
        {"block_hash": "ab"},
        {"worker_address": ""},
        {"algorithm": "matmul"},
        {"more": 1},
    ],
)
def test_what_is_no_challenge_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Challenge.model_validate({"block_hash": "ab" * 32, "worker_address": ADDRESS, "n": 4, **wrong})


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_a_path_leads_to_the_root_from_its_own_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    tree = Tree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(index)
    assert root_of_path(leaves[index], index, len(leaves), path) == tree.root
    for other in range(len(leaves)):
        if leaves[other] != leaves[index]:
            assert root_of_path(leaves[index], other, len(leaves), path) != tree.root
    assert root_of_path(leaves[index], index, len(leaves), (*path, "00" * 32)) == ""
    if path:
        assert root_of_path(leaves[index], index, len(leaves), path[:-1]) == ""
        assert root_of_path(leaves[index], index, len(leaves), ("zz", *path[1:])) == ""


@given(st.integers(1, 5_000), st.integers(1, 64), st.binary(min_size=32, max_size=32))
def test_demanded_rows_are_distinct_ordered_and_bound_to_the_root(n: int, rows: int, root: bytes) -> None:
    found = demanded_rows(b"seed", root.hex(), n, rows)
    assert len(set(found)) == len(found) == min(n, rows)
    assert list(found) == sorted(found)
    assert all(0 <= index < n for index in found)
    assert found == demanded_rows(b"seed", root.hex(), n, rows)
    if n > 1_000 and rows > 8:
        other = bytes([root[0] ^ 1]) + root[1:]
        assert found != demanded_rows(b"seed", other.hex(), n, rows)
        assert found != demanded_rows(b"seee", root.hex(), n, rows)


def test_a_size_that_does_not_fit_is_declined_with_the_numbers() -> None:
    with pytest.raises(Declined, match=r"n = 65535 needs 33,\d\d\d MiB on a toaster, which has 64 MiB free") as caught:
        ensure_fits(65_535, cpu_bytes(65_535), 64 * 1024 * 1024, "a toaster")
    assert caught.value.reason == "too_big"
    ensure_fits(64, cpu_bytes(64), 1 << 30, "a toaster")
