"""The card's kernels, compiled for the CPU: the same text, bit for bit against NumPy and hashlib.

That a card's compiler makes the same of it only a card can show: tests/stages/test_matmul_gpu.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stages.execute.matmul.kernels import SHA256_SOURCE, philox_source
from stages.execute.matmul.tree import Tree, leaf_of

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler here: apt-get install gcc")

SHIM = """
#include <stddef.h>
#define __global__
#define __device__
#define __umul64hi(a, b) ((unsigned long long)((unsigned __int128)(a) * (b) >> 64))
struct place { unsigned x; };
static struct place blockIdx, blockDim, threadIdx;
"""
RUN = """
void run_philox(u64 a, u64 b, ENTRY *entries, u64 count, unsigned blocks)
{ LOOP philox_entries(a, b, entries, count); }
"""
RUN_SHA = """
void run_leaves(const float *product, u8 *leaves, u32 n, u32 rows, unsigned blocks)
{ LOOP row_leaves(product, leaves, n, rows); }
void run_level(const u8 *below, u8 *above, u32 count, unsigned blocks)
{ LOOP tree_level(below, above, count); }
"""
LOOP = (
    "blockDim.x = 128; for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)"
    " for (threadIdx.x = 0; threadIdx.x < 128; ++threadIdx.x)"
)


def compiled(source: str, run: str, folder: Path) -> ctypes.CDLL:
    text = SHIM + source.replace('extern "C"', "static") + run.replace("LOOP", LOOP)
    (folder / "kernel.c").write_text(text)
    command = ["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function", "-o"]
    subprocess.run([*command, folder / "kernel.so", folder / "kernel.c"], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module")
def sha(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(SHA256_SOURCE, RUN_SHA, tmp_path_factory.mktemp("sha"))


@pytest.mark.parametrize(("c_type", "dtype"), [("signed char", np.int8), ("float", np.float32)])
def test_philox_gives_numpys_stream(tmp_path: Path, c_type: str, dtype: type) -> None:
    kernel = compiled(philox_source(c_type), RUN, tmp_path)
    for key in ((0, 0), (1, 2), (2**64 - 1, 0x0123456789ABCDEF)):
        for count in (1, 31, 32, 33, 8_191, 20_000):
            made = np.full(count + 8, 99, dtype)
            kernel.run_philox(
                ctypes.c_uint64(key[0]), ctypes.c_uint64(key[1]), pointer(made), ctypes.c_uint64(count), 8
            )
            words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(-(-count // 8)).astype("<u8")
            expected = (words.view(np.uint8)[:count] & 31).astype(np.int64) - 16
            np.testing.assert_array_equal(made[:count], expected)
            assert (made[count:] == 99).all(), "nothing is written behind the end"


@pytest.mark.parametrize("n", [1, 2, 12, 13, 14, 15, 16, 17, 28, 29, 30, 31, 32, 64, 255, 256, 1_000])
def test_rows_are_hashed_as_hashlib_hashes_them(sha: ctypes.CDLL, n: int) -> None:
    """n decides where the padding falls: in the last block, or in one of its own."""
    rows = 130
    product = np.random.default_rng(n).integers(-256 * n, 256 * n, (rows, n), endpoint=True).astype(np.float32)
    leaves = np.zeros((rows, 32), np.uint8)
    sha.run_leaves(pointer(product), pointer(leaves), n, rows, 2)
    assert [leaf.tobytes() for leaf in leaves] == [leaf_of(row.astype("<i4").tobytes()) for row in product]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 129, 300])
def test_the_tree_is_that_of_the_cpu(sha: ctypes.CDLL, count: int) -> None:
    leaves = [hashlib.sha256(bytes([n % 251, n // 251])).digest() for n in range(count)]
    level = np.frombuffer(b"".join(leaves), np.uint8).copy()
    while (left := len(level) // 32) > 1:
        above = np.zeros((left + 1) // 2 * 32, np.uint8)
        sha.run_level(pointer(level), pointer(above), left, 2)
        level = above
    assert level.tobytes().hex() == Tree(leaves).root
