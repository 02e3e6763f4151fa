"""The challenge against the bare product, and verification against doing it again.

    python -m bench.matmul [--sides 1024,2048,4096,8192,16384] [--rounds 5] [--plot docs/matmul.png]

Both sides of each comparison are run in turns in one process, medians are given. The bare product is float32 by the
same BLAS on matrices that are there already; on a card, half precision by cuBLAS. The challenge is all of it: both
matrices made from the block's hash, the product, every row hashed, the tree, the rows for the proof. Verification is by
rows, what anybody does who has a proof: B made anew, the rows that are shown computed again and found under the root.

Bars on a CPU: the challenge costs at most 1.4 times the bare product at n = 4,096; verification less than 30 % of the
challenge at n = 8,192, and its share halves as n doubles. On a card: 1.25 times at n = 16,384. Exits with 1 if one that
could be measured is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.report import print_report
from millrace.errors import Declined
from stages.execute.matmul import cupy_device
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.entries import entries
from stages.execute.matmul.memory import ensure_fits_here
from stages.execute.matmul.numpy_device import cpu, solve_on_cpu
from stages.execute.matmul.solution import Solution
from stages.execute.matmul.verify import verify

SIDES = (1_024, 2_048, 4_096, 8_192, 16_384)
BAR_SIDE, BAR_TIMES = 4_096, 1.4
VERIFY_SIDE, VERIFY_SHARE = 8_192, 0.30
HALVING = (0.35, 0.65)
"""The share at 2n over that at n: 0.5, give or take what caches and a busy machine do."""

GPU_BAR_SIDE, GPU_BAR_TIMES = 16_384, 1.25
_ROWS = 16


@dataclass(frozen=True)
class Measured:
    """Median seconds at one side, on one device."""

    device: str
    n: int
    bare: float
    challenge: float
    verification: float

    @property
    def times(self) -> float:
        """The challenge in bare products."""
        return self.challenge / self.bare

    @property
    def share(self) -> float:
        """Verification's share of the challenge."""
        return self.verification / self.challenge


def main() -> int:
    """Measure; 0 if every bar that could be measured is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=_sides, default=SIDES, help="with commas")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison")
    parser.add_argument("--plot", type=Path, help="where to put a picture of it (PNG)")
    options = parser.parse_args()
    measured = [on_cpu(n, options.rounds) for n in options.sides if _fits(n)]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as locks:
        measured += on_card(options.sides, options.rounds, Path(locks))
    if options.plot:
        draw(measured, options.plot)
    return report(measured)


def _sides(text: str) -> tuple[int, ...]:
    return tuple(int(side) for side in text.split(","))


def _fits(n: int) -> bool:
    try:
        ensure_fits_here(n)
    except Declined as error:
        print(error, file=sys.stderr)
        return False
    return True


def _challenge(n: int) -> Challenge:
    return Challenge(block_hash="5a" * 32, worker_address="cpc10xcqpzrky6eff2g52qdye53xkk9jxkvr2hadde", n=n)


def on_cpu(n: int, rounds: int) -> Measured:
    """Measure at side `n` on this machine's CPU."""
    challenge = _challenge(n)
    a, b = entries(challenge, "A", 0, n), entries(challenge, "B", 0, n)
    product = np.empty((n, n), np.float32)
    return _measured("CPU", n, rounds, lambda: np.matmul(a, b, out=product), lambda: solve_on_cpu(challenge, _ROWS))


def on_card(sides: tuple[int, ...], rounds: int, locks: Path) -> list[Measured]:
    """Measure on the first card, if there is one."""
    try:
        cupy_device.cards()
    except Declined as error:
        print(f"no card: {error.message}", file=sys.stderr)
        return []
    measured = []
    for n in sides:
        bare = cupy_device.bare_product(n)
        challenge = _challenge(n)

        def solved(challenge: Challenge = challenge) -> Solution:
            return cupy_device.solve_on_card(challenge, 0, _ROWS, locks, patience_seconds=0)

        measured.append(_measured("card", n, rounds, bare, solved))
    return measured


def _measured(device: str, n: int, rounds: int, bare: Callable[[], object], solve: Callable[[], Solution]) -> Measured:
    solution = solve()
    if not verify(solution).valid:
        raise RuntimeError(f"the answer at n = {n} is wrong: {verify(solution).detail}")
    bare()
    taken: dict[str, list[float]] = {"bare": [], "challenge": [], "verification": []}
    for _ in range(rounds):
        for name, work in (("bare", bare), ("challenge", solve), ("verification", lambda: verify(solution))):
            began = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - began)
    print(f"{device}, n = {n:,}: measured", file=sys.stderr)
    return Measured(device, n, *(statistics.median(seconds) for seconds in taken.values()))


def report(measured: list[Measured]) -> int:
    """Print what was measured; 0 if every bar that could be measured is met."""
    missed = misses(measured)
    for line in missed:
        print(line, file=sys.stderr)
    rows = [
        {
            "device": one.device,
            "n": one.n,
            "bare_product_s": round(one.bare, 4),
            "challenge_s": round(one.challenge, 4),
            "times_the_product": round(one.times, 2),
            "verification_s": round(one.verification, 4),
            "share_%": round(100 * one.share, 1),
        }
        for one in measured
    ]
    summary = {"bench": "matmul", "cpu": cpu().model_dump(), "rows": rows, "missed": missed, "ok": not missed}
    print_report(f"matmul-i32-v1, medians; {cpu().name}, {cpu().driver}", rows, summary)
    return 1 if missed else 0


def misses(measured: list[Measured]) -> list[str]:
    """The bars that are missed, in words."""
    found = []
    of = {(one.device, one.n): one for one in measured}
    for device, side, bar in (("CPU", BAR_SIDE, BAR_TIMES), ("card", GPU_BAR_SIDE, GPU_BAR_TIMES)):
        if (one := of.get((device, side))) and one.times > bar:
            found.append(f"{device}, n = {side}: the challenge takes {one.times:.2f} bare products, {bar} is the bar")
    if (one := of.get(("CPU", VERIFY_SIDE))) and one.share >= VERIFY_SHARE:
        found.append(f"n = {VERIFY_SIDE}: verification takes {one.share:.0%} of the challenge")
    for n in (BAR_SIDE, VERIFY_SIDE):
        smaller, larger = of.get(("CPU", n)), of.get(("CPU", 2 * n))
        if smaller and larger and not HALVING[0] <= larger.share / smaller.share <= HALVING[1]:
            found.append(f"from n = {n} on, verification's share becomes {larger.share / smaller.share:.2f} of itself")
    return found


def draw(measured: list[Measured], path: Path) -> None:
    """A picture of the two comparisons."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for device in dict.fromkeys(one.device for one in measured):
        rows = [one for one in measured if one.device == device]
        sides = [one.n for one in rows]
        left.plot(sides, [one.bare for one in rows], marker="o", label=f"bare product, {device}")
        left.plot(sides, [one.challenge for one in rows], marker="s", label=f"challenge, {device}")
        left.plot(sides, [one.verification for one in rows], marker="^", label=f"verification, {device}")
        right.plot(sides, [100 * one.share for one in rows], marker="^", label=f"verification, {device}")
    right.axhline(100 * VERIFY_SHARE, linestyle="--", color="grey", label="bar at n = 8,192")
    left.set(title="Time", ylabel="seconds", yscale="log")
    right.set(title="Verification's share of the challenge", ylabel="%", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks([one.n for one in measured], [f"{one.n:,}" for one in measured])
        axes.set_xlabel("side n")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
