"""The challenge on a real card, bit for bit what the CPU gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.numpy_device import solve_on_cpu
from stages.execute.matmul.solve import solve
from stages.execute.matmul.verify import verify

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None,
    reason="CuPy is not installed: `make setup GPU=1` on a machine with a card runs this",
)


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 129, 1_000, 1_024, 4_096])
def test_a_card_gives_the_same_bytes_as_a_cpu(tmp_path: Path, n: int) -> None:
    challenge = Challenge(block_hash="5a" * 32, worker_address="cpc1worker", n=n)
    solved = solve(challenge, device="cuda:0", sampled_rows=4, locks=tmp_path, patience_seconds=0)
    assert solved.device.kind in ("cuda", "rocm")
    assert (solved.root, solved.rows) == ((of_cpu := solve_on_cpu(challenge, 4)).root, of_cpu.rows)
    assert verify(solved).valid


def test_the_public_sample_is_solved_and_labelled(tmp_path: Path) -> None:
    challenge = Challenge(block_hash="5a" * 32, worker_address="cpc1worker", n=64, algorithm="matmul-f64-cupy")
    solved = solve(challenge, device="cuda:0", sampled_rows=4, locks=tmp_path, patience_seconds=0)
    assert solved.rows == ()
    assert "cannot be checked" in verify(solved).detail
