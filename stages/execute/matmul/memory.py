"""Whether a challenge fits, before anything is allocated.

On a CPU: A and B in float32 (8 n² bytes), up to four panels of the product in float32 and int32, and n digests. On a
card: A and B in the type that its matrix units take, C as it comes out of them, and n digests of 32 bytes twice.
"""

from __future__ import annotations

import psutil

from millrace.errors import Declined, DeclineReason
from millrace.limits import MIB

_PANEL_BYTES = 1 << 24
_LEAST_PANEL_ROWS = 64
_INTERPRETER_BYTES = 128 * MIB
_DIGEST_BYTES = 128
"""A leaf and its part of the tree, as Python objects."""


def panel_rows(n: int) -> int:
    """How many rows of the product a CPU makes at once."""
    return min(n, max(_LEAST_PANEL_ROWS, _PANEL_BYTES // (4 * n)))


def cpu_bytes(n: int) -> int:
    """The most memory that solving on a CPU takes."""
    return 8 * n * n + 4 * 8 * panel_rows(n) * n + _DIGEST_BYTES * n + _INTERPRETER_BYTES


def gpu_bytes(n: int, entry_bytes: int) -> int:
    """The most memory of a card that solving takes, where an entry of A or B is `entry_bytes` long."""
    return 2 * entry_bytes * n * n + 4 * n * n + 3 * 32 * n + 64 * MIB


def ensure_fits(n: int, needed_bytes: int, free_bytes: int, where: str) -> None:
    """Return if it fits; Declined(too_big) with the numbers if not."""
    if needed_bytes > free_bytes:
        raise Declined(
            f"n = {n} needs {needed_bytes / MIB:,.0f} MiB on {where}, which has {free_bytes / MIB:,.0f} MiB free",
            reason=DeclineReason.too_big,
            hint="a smaller MILLRACE_COMPUTECHAIN__SIZE, or a device with more memory",
        )


def ensure_fits_here(n: int) -> None:
    """Return if this machine's memory is enough to solve on its CPU; Declined(too_big) with the numbers if not."""
    ensure_fits(n, cpu_bytes(n), psutil.virtual_memory().available, "this machine's CPU")
