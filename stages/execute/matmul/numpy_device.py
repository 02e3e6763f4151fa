"""The challenge on a CPU: a float32 product, exact because no sum ever leaves the integers that float32 has.

The product is made a panel of rows at a time. While BLAS computes one panel, the rows of the one before are hashed in a
thread beside it: hashlib lets go of the interpreter, and so does BLAS.
"""

from __future__ import annotations

import base64
import platform
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.entries import Float32, entries
from stages.execute.matmul.memory import panel_rows
from stages.execute.matmul.sampling import demanded_rows
from stages.execute.matmul.solution import DeviceInfo, SampledRow, Solution
from stages.execute.matmul.tree import Tree, leaf_of


def solve_on_cpu(challenge: Challenge, sampled_rows: int) -> Solution:
    """Solve `challenge`, whose rows the proof shows `sampled_rows` of. MemoryError if there is not enough."""
    began = time.perf_counter()
    with ThreadPoolExecutor(2, thread_name_prefix="matmul") as threads:
        a, b = threads.map(lambda matrix: entries(challenge, matrix, 0, challenge.n), ("A", "B"))
        generated = time.perf_counter()
        leaves = _leaves(a, b, threads)
    multiplied = time.perf_counter()
    tree = Tree(leaves)
    wanted = demanded_rows(challenge.seed, tree.root, challenge.n, sampled_rows)
    # Keeping the product for these few would take as much memory as the matrices.
    shown = to_rows(a[list(wanted)] @ b)
    rows = [sampled_row(index, shown[place].tobytes(), tree) for place, index in enumerate(wanted)]
    ended = time.perf_counter()
    return Solution(
        challenge=challenge,
        root=tree.root,
        rows=tuple(rows),
        device=cpu(),
        timings={
            "generate": round(generated - began, 4),
            "multiply and hash": round(multiplied - generated, 4),
            "tree and rows": round(ended - multiplied, 4),
        },
        peak_memory_bytes=_peak_bytes(),
    )


def _leaves(a: Float32, b: Float32, threads: ThreadPoolExecutor) -> list[bytes]:
    """The leaf of each row of the product."""
    step = panel_rows(len(a))
    hashed: list[Future[list[bytes]]] = []
    for start in range(0, len(a), step):
        panel = a[start : start + step] @ b
        hashed.append(threads.submit(_hashed, panel))
        if len(hashed) > 2:
            hashed[-3].result()  # no more than two panels wait, however slow hashing is
    return [leaf for panel_leaves in hashed for leaf in panel_leaves.result()]


def _hashed(panel: Float32) -> list[bytes]:
    return [leaf_of(memoryview(row).cast("B")) for row in to_rows(panel)]


def to_rows(product: Float32) -> NDArray[np.int32]:
    """Rows of the product as they are hashed and shown: little-endian int32. Every value is an integer already."""
    return product.astype("<i4")


def sampled_row(index: int, row: bytes, tree: Tree) -> SampledRow:
    """The row at `index` as a proof shows it."""
    return SampledRow(index=index, row=base64.b64encode(row).decode(), path=tree.path(index))


def cpu() -> DeviceInfo:
    """This machine's processor and the library that multiplies on it."""
    return DeviceInfo(kind="cpu", name=_processor()[:200], driver=f"NumPy {np.__version__}, {_blas()}"[:200])


def _processor() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _blas() -> str:
    built = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {}) if built else {}
    return f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
