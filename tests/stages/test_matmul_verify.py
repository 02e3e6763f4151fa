"""Forgeries, each caught by the check that costs a fraction of the work."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.entries import entries
from stages.execute.matmul.numpy_device import cpu, sampled_row, solve_on_cpu
from stages.execute.matmul.sampling import demanded_rows
from stages.execute.matmul.solution import SampledRow, Solution
from stages.execute.matmul.tree import Tree, leaf_of
from stages.execute.matmul.verify import freivalds, read_bundle, verify, verify_bundle

N = 96
CHALLENGE = Challenge(block_hash="5a" * 32, worker_address="cpc1worker", n=N)
HONEST = solve_on_cpu(CHALLENGE, 12)


def product_of(challenge: Challenge) -> np.ndarray:
    a, b = (entries(challenge, name, 0, challenge.n) for name in ("A", "B"))
    return (a @ b).astype("<i4")


def claimed(product: np.ndarray, challenge: Challenge = CHALLENGE, rows: int = 12) -> Solution:
    """What a forger submits who has made `product`: everything consistent, and committed to."""
    tree = Tree([leaf_of(row.tobytes()) for row in product])
    demanded = demanded_rows(challenge.seed, tree.root, challenge.n, rows)
    shown = tuple(sampled_row(index, product[index].tobytes(), tree) for index in demanded)
    return Solution(challenge=challenge, root=tree.root, rows=shown, device=cpu(), timings={})


def everywhere_wrong(product: np.ndarray) -> np.ndarray:
    forged = product.copy()
    forged[:, 5] ^= 1
    return forged


def low_precision(_: np.ndarray) -> np.ndarray:
    """Sums kept in half precision, as a card could be tempted to."""
    a, b = (entries(CHALLENGE, name, 0, N).astype(np.float16) for name in ("A", "B"))
    total = np.zeros((N, N), np.float16)
    for k in range(N):
        total = (total + np.outer(a[:, k], b[k])).astype(np.float16)
    return total.astype(np.float32).round(-1).astype("<i4")


def rows_shifted(product: np.ndarray) -> np.ndarray:
    return np.roll(product, 1, axis=0)


def of_another_seed(_: np.ndarray) -> np.ndarray:
    return product_of(CHALLENGE.model_copy(update={"block_hash": "5b" * 32}))


def test_an_honest_answer_passes_both_ways() -> None:
    assert verify(HONEST).valid
    assert verify(HONEST, product=product_of(CHALLENGE)).valid
    assert verify_bundle(CHALLENGE, HONEST.root, HONEST.bundle_json("computechain/x/1")).valid
    assert claimed(product_of(CHALLENGE)).root == HONEST.root


@pytest.mark.parametrize("forge", [everywhere_wrong, low_precision, rows_shifted, of_another_seed])
def test_a_wrong_product_is_caught_from_its_rows(forge: Callable[[np.ndarray], np.ndarray]) -> None:
    verdict = verify(claimed(forge(product_of(CHALLENGE))))
    assert not verdict.valid
    assert "is wrong" in verdict.detail


@settings(deadline=None, max_examples=30)
@given(st.integers(0, N - 1), st.integers(0, N - 1), st.integers(0, 13))
def test_a_single_bit_is_caught_with_the_product_at_hand(row: int, column: int, bit: int) -> None:
    forged = product_of(CHALLENGE)
    forged[row, column] ^= np.int32(1 << bit)
    assert not verify(claimed(forged), product=forged).valid


def test_two_swapped_rows_are_caught_with_the_product_at_hand() -> None:
    forged = product_of(CHALLENGE)
    forged[[3, 70]] = forged[[70, 3]]
    assert "is wrong" in verify(claimed(forged), product=forged).detail


def test_a_product_that_is_not_the_one_committed_to_is_caught() -> None:
    forged = product_of(CHALLENGE)
    forged[0, 0] += 1
    assert "not the one under the root" in verify(HONEST, product=forged).detail


@pytest.mark.parametrize("extreme", [-(2**31), 2**31 - 1, 256 * N + 1])
def test_an_entry_out_of_range_does_not_overflow_the_test(extreme: int) -> None:
    forged = product_of(CHALLENGE)
    forged[1, 1] = extreme
    assert "none can be" in freivalds(CHALLENGE, forged)


@pytest.mark.parametrize("shape", [(N, N - 1), (N - 1, N), (N * N,)])
def test_a_product_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    assert not verify(HONEST, product=np.zeros(shape, "<i4")).valid
    assert not verify(HONEST, product=product_of(CHALLENGE).astype(np.int64)).valid  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1_000])
def test_freivalds_passes_what_is_right_at_every_side(n: int) -> None:
    challenge = CHALLENGE.model_copy(update={"n": n})
    product = product_of(challenge)
    assert freivalds(challenge, product) == ""
    product[n - 1, 0] += 1
    assert freivalds(challenge, product)


def changed(**changes: Any) -> Solution:
    return HONEST.model_copy(update=changes)


def with_row(place: int, **changes: Any) -> Solution:
    rows = list(HONEST.rows)
    rows[place] = rows[place].model_copy(update=changes)
    return changed(rows=tuple(rows))


def other_row() -> SampledRow:
    free = next(index for index in range(N) if index not in {row.index for row in HONEST.rows})
    tree = Tree([leaf_of(row.tobytes()) for row in product_of(CHALLENGE)])
    return sampled_row(free, product_of(CHALLENGE)[free].tobytes(), tree)


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        (changed(rows=()), "least"),
        (changed(rows=HONEST.rows[:3]), "least"),
        (changed(rows=HONEST.rows[:8]), "other rows"),
        (changed(rows=HONEST.rows[::-1]), "other rows"),
        (changed(rows=(HONEST.rows[0],) * 12), "other rows"),
        (changed(rows=(other_row(), *HONEST.rows[1:])), "other rows"),
        (changed(root="00" * 32), "other rows"),
        (with_row(0, path=HONEST.rows[1].path), "not under the root"),
        (with_row(0, path=HONEST.rows[0].path[:-1]), "not under the root"),
        (with_row(0, path=()), "not under the root"),
        (with_row(0, row=HONEST.rows[1].row), "not under the root"),
        (with_row(0, row=HONEST.rows[0].row[:-4]), "not under the root"),
        (with_row(0, row="!" * 512), "not under the root"),
        (with_row(0, row=f"{HONEST.rows[0].row}="), "not under the root"),
        (with_row(0, row=base64.b64encode(bytes(4 * N)).decode()), "not under the root"),
        (changed(challenge=CHALLENGE.model_copy(update={"worker_address": "cpc1thief"})), "other rows"),
    ],
)
def test_a_forged_proof_is_caught(forged: Solution, said: str) -> None:
    verdict = verify(forged)
    assert not verdict.valid
    assert said in verdict.detail


def test_a_bundle_about_something_else_is_refused() -> None:
    bundle = HONEST.bundle_json("job")
    other = CHALLENGE.model_copy(update={"block_hash": "5b" * 32})
    assert "another challenge" in verify_bundle(other, HONEST.root, bundle).detail
    assert "another root" in verify_bundle(CHALLENGE, "00" * 32, bundle).detail
    newer = json.dumps({**json.loads(bundle), "version": 2})
    assert "version 2" in verify_bundle(CHALLENGE, HONEST.root, newer).detail


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_garbage_is_no_bundle_and_no_crash(text: str) -> None:
    assert not verify_bundle(CHALLENGE, HONEST.root, text).valid


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_bundle_cut_or_changed_anywhere_is_never_a_crash(place: int, byte: int) -> None:
    bundle = HONEST.bundle_json("job")
    assert read_bundle(bundle[: place % len(bundle)]) is None
    raw = bytearray(bundle.encode())
    raw[place % len(raw)] = byte
    verdict = verify_bundle(CHALLENGE, HONEST.root, raw.decode("latin-1"))
    assert verdict.valid in (True, False)


def test_deeply_nested_json_is_no_bundle() -> None:
    assert read_bundle("[" * 100_000) is None


def test_the_public_sample_says_that_it_cannot_be_checked() -> None:
    sample = HONEST.model_copy(update={"challenge": CHALLENGE.model_copy(update={"algorithm": "matmul-f64-cupy"})})
    assert "cannot be checked" in verify(sample).detail
    assert not verify(sample).valid


def test_the_proof_for_the_chain_is_compact_and_names_the_bundle() -> None:
    assert HONEST.proof("bafy") == '{"v":1,"algorithm":"matmul-i32-v1","n":96,"rows":12,"bundle":"bafy"}'
