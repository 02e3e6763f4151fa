"""The challenge on a card, through CuPy: CUDA, or ROCm where CuPy is built for it.

Exactness: entries are from -16 to 15, so that half precision has each of them and float32 each of their sums, in any
order. Matrix units that take halves and add in float32 are in every card since Volta; a card without them multiplies in
float32. TF32 and bfloat16 would give the same at no gain, int8 wants other layouts and is not faster where it counts.

Nothing here is imported before a card is asked for: CuPy is optional, and looking for a card takes a second.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from millrace.errors import Declined, DeclineReason, Transient
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.device_lock import hold_device
from stages.execute.matmul.kernels import BYTES_A_BLOCK, SHA256_SOURCE, THREADS, philox_source
from stages.execute.matmul.memory import ensure_fits, gpu_bytes
from stages.execute.matmul.numpy_device import sampled_row, to_rows
from stages.execute.matmul.sampling import demanded_rows
from stages.execute.matmul.solution import DeviceInfo, Solution
from stages.execute.matmul.tree import DIGEST_BYTES, Tree

_HALF_SINCE = (7, 0)
"""Compute capability of the first cards with matrix units for halves (Volta)."""

_INSTALL = "`make setup GPU=1` installs CuPy; the driver must be there as well: `nvidia-smi` shows it"


def cards() -> int:
    """How many cards CuPy can use. Declined(unsupported) if CuPy is not installed, or finds no driver."""
    return int(_ask(_cupy().cuda.runtime.getDeviceCount))


def solve_on_card(
    challenge: Challenge, number: int, sampled_rows: int, locks: Path, *, patience_seconds: float
) -> Solution:
    """Solve `challenge` on card `number`, which is ours alone meanwhile.

    Raises DeviceBusy if another job keeps it for `patience_seconds`; Declined(too_big) with the numbers if it does not
    fit; Declined(unsupported) without such a card; Transient if the card fails or somebody else takes its memory.
    """
    cupy = _cupy()
    if number >= cards():
        raise Declined(f"there is no card {number} here", reason=DeclineReason.unsupported, hint=_INSTALL)
    with (
        _failures(cupy, number),
        cupy.cuda.Device(number) as device,
        hold_device(locks, device.pci_bus_id, patience_seconds=patience_seconds),
    ):
        work = _Work(cupy, challenge, number)
        return work.sample() if challenge.algorithm == "matmul-f64-cupy" else work.solve(sampled_rows)


@contextmanager
def reserved(number: int, locks: Path) -> Iterator[None]:
    """Hold card `number` inside. Raises DeviceBusy at once if another job has it, Transient if it fails."""
    cupy = _cupy()
    with _failures(cupy, number):
        identity = cupy.cuda.Device(number).pci_bus_id
    with hold_device(locks, identity, patience_seconds=0):
        yield


def bare_product(n: int) -> Callable[[], None]:
    """The product alone on the first card, of matrices that are there: what the challenge is measured against."""
    work = _Work(_cupy(), Challenge(block_hash="00" * 32, worker_address="bench", n=n), 0)
    a, b = work.entries("A"), work.entries("B")

    def multiply() -> None:
        work.product(a, b)
        work.now()

    return multiply


class _Work:
    """One challenge on the current card."""

    def __init__(self, cupy: Any, challenge: Challenge, number: int) -> None:
        self._cupy = cupy
        self._challenge = challenge
        self._number = number
        self._is_rocm = bool(cupy.cuda.runtime.is_hip)
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self._name = properties["name"].decode(errors="replace")
        self._halves = not self._is_rocm and (properties["major"], properties["minor"]) >= _HALF_SINCE
        self._pool = cupy.get_default_memory_pool()

    def solve(self, sampled_rows: int) -> Solution:
        """`matmul-i32-v1`."""
        n = self._challenge.n
        free, _ = self._cupy.cuda.runtime.memGetInfo()
        ensure_fits(n, gpu_bytes(n, 2 if self._halves else 4), free, f"card {self._number}, {self._name}")
        began = time.perf_counter()
        a, b = self.entries("A"), self.entries("B")
        generated = self.now()
        product = self.product(a, b)
        multiplied = self.now()
        leaves = self._leaves(product)
        root = self._root(leaves)
        hashed = self.now()
        wanted = demanded_rows(self._challenge.seed, root, n, sampled_rows)
        shown = to_rows(self._cupy.asnumpy(product[list(wanted)]))
        # Of the tree, the paths of these rows: from the leaves, which are 32 bytes a row.
        tree = Tree([leaf.tobytes() for leaf in self._cupy.asnumpy(leaves).reshape(n, DIGEST_BYTES)])
        rows = tuple(sampled_row(index, shown[place].tobytes(), tree) for place, index in enumerate(wanted))
        timings = {
            "generate": generated - began,
            "multiply": multiplied - generated,
            "hash": hashed - multiplied,
            "tree and rows": time.perf_counter() - hashed,
        }
        return self._solution(root, timings, rows=rows)

    def sample(self) -> Solution:
        """`matmul-f64-cupy`, as the public sample does it: good on cards of this kind alone."""
        n = self._challenge.n
        free, _ = self._cupy.cuda.runtime.memGetInfo()
        ensure_fits(n, 3 * 8 * n * n, free, f"card {self._number}, {self._name}")
        began = time.perf_counter()
        self._cupy.random.seed(int.from_bytes(self._challenge.seed[:4]))
        product = self._cupy.dot(self._cupy.random.rand(n, n), self._cupy.random.rand(n, n))
        digest = hashlib.sha256(self._cupy.asnumpy(product).tobytes()).hexdigest()
        return self._solution(digest, {"all": self.now() - began})

    def entries(self, matrix: Any) -> Any:
        """A or B, in the type that is multiplied."""
        n = self._challenge.n
        made = self._cupy.empty((n, n), self._cupy.float16 if self._halves else self._cupy.float32)
        kernel = self._philox()
        first, second = self._challenge.stream_key(matrix)
        blocks = -(-n * n // BYTES_A_BLOCK)
        kernel(_grid(blocks), (THREADS,), (np.uint64(first), np.uint64(second), made, np.uint64(n * n)))
        return made

    def _philox(self) -> Any:
        if not self._halves:
            return self._cupy.RawKernel(philox_source("float"), "philox_entries")
        # CuPy ships the header, for CUDA as for HIP.
        source = f"#include <cupy/carray.cuh>\n{philox_source('float16')}"
        return self._cupy.RawKernel(source.replace("(ENTRY)(", "(ENTRY)(float)("), "philox_entries")

    def product(self, a: Any, b: Any) -> Any:
        """A·B in float32, row after row."""
        if not self._halves:
            return a @ b
        n, cublas = self._challenge.n, self._cupy.cuda.cublas
        runtime = self._cupy.cuda.runtime
        product = self._cupy.empty((n, n), self._cupy.float32)
        one, zero = np.array(1, np.float32), np.array(0, np.float32)
        # cuBLAS counts columns first, in which our rows are the transposed: (AB)ᵀ = BᵀAᵀ, with the factors as they lie.
        cublas.gemmEx(
            self._cupy.cuda.device.get_cublas_handle(),
            cublas.CUBLAS_OP_N,
            cublas.CUBLAS_OP_N,
            n,
            n,
            n,
            one.ctypes.data,
            b.data.ptr,
            runtime.CUDA_R_16F,
            n,
            a.data.ptr,
            runtime.CUDA_R_16F,
            n,
            zero.ctypes.data,
            product.data.ptr,
            runtime.CUDA_R_32F,
            n,
            cublas.CUBLAS_COMPUTE_32F,
            cublas.CUBLAS_GEMM_DEFAULT,
        )
        return product

    def _leaves(self, product: Any) -> Any:
        n = self._challenge.n
        leaves = self._cupy.empty(n * DIGEST_BYTES, self._cupy.uint8)
        kernel = self._cupy.RawKernel(SHA256_SOURCE, "row_leaves")
        kernel(_grid(n), (THREADS,), (product, leaves, np.uint32(n), np.uint32(n)))
        return leaves

    def _root(self, leaves: Any) -> str:
        kernel = self._cupy.RawKernel(SHA256_SOURCE, "tree_level")
        level, count = leaves, self._challenge.n
        while count > 1:
            above = self._cupy.empty((count + 1) // 2 * DIGEST_BYTES, self._cupy.uint8)
            kernel(_grid((count + 1) // 2), (THREADS,), (level, above, np.uint32(count)))
            level, count = above, (count + 1) // 2
        return bytes(self._cupy.asnumpy(level)).hex()

    def now(self) -> float:
        """The time, once the card has done what it was given."""
        self._cupy.cuda.get_current_stream().synchronize()
        return time.perf_counter()

    def _solution(self, root: str, timings: dict[str, float], **rows: Any) -> Solution:
        version = self._cupy.cuda.runtime.driverGetVersion()
        return Solution(
            challenge=self._challenge,
            root=root,
            rows=rows.get("rows", ()),
            device=DeviceInfo(
                kind="rocm" if self._is_rocm else "cuda",
                name=self._name[:200],
                driver=f"driver {version}, CuPy {self._cupy.__version__}"[:200],
            ),
            timings={what: round(seconds, 4) for what, seconds in timings.items()},
            peak_memory_bytes=int(self._pool.total_bytes()),
        )


def _grid(threads: int) -> tuple[int]:
    return (-(-threads // THREADS),)


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise Declined(f"CuPy cannot be imported: {error}", reason=DeclineReason.unsupported, hint=_INSTALL) from None


def _ask(question: Any) -> Any:
    """What CuPy answers. Declined(unsupported) if there is no driver, or no card."""
    try:
        return question()
    except RuntimeError as error:  # of which CUDARuntimeError is one
        raise Declined(f"no card can be used: {error}", reason=DeclineReason.unsupported, hint=_INSTALL) from None


@contextmanager
def _failures(cupy: Any, number: int) -> Iterator[None]:
    """What a card's failures mean for the job: another try, on a card that was looked at."""
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        hint = "something else uses the card: `nvidia-smi` shows what"
        raise Transient(f"card {number} ran out of memory: {error}", hint=hint) from None
    except (
        cupy.cuda.runtime.CUDARuntimeError,
        cupy.cuda.driver.CUDADriverError,
        cupy.cuda.cublas.CUBLASError,
    ) as error:
        hint = "`nvidia-smi` shows its state, the kernel's log its faults; a lost card needs a reset"
        raise Transient(f"card {number} failed: {error}", hint=hint) from None
