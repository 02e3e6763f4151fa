"""Solve a challenge in this process, on the device that was asked for."""

from __future__ import annotations

import logging
from pathlib import Path

from millrace.errors import Declined, DeclineReason
from stages.execute.matmul import cupy_device
from stages.execute.matmul.challenge import PORTABLE, Challenge
from stages.execute.matmul.device_lock import DeviceBusy
from stages.execute.matmul.memory import ensure_fits_here
from stages.execute.matmul.numpy_device import solve_on_cpu
from stages.execute.matmul.solution import Solution

_logger = logging.getLogger(__name__)


def solve(challenge: Challenge, *, device: str, sampled_rows: int, locks: Path, patience_seconds: float) -> Solution:
    """Solve `challenge` on `device`: `cpu`, `cuda:<number>`, or `auto`, a free card if there is one and else the CPU.

    `locks` is the folder in which the processes of this machine agree on who has a card. Raises Declined if the device
    is not there or the challenge does not fit; Transient if a card is busy or fails.
    """
    if device == "auto" and (number := _free_card(locks)) is not None:
        device = f"cuda:{number}"
    if device.startswith("cuda:"):
        number = int(device.removeprefix("cuda:"))
        return cupy_device.solve_on_card(challenge, number, sampled_rows, locks, patience_seconds=patience_seconds)
    if challenge.algorithm != PORTABLE:
        raise Declined(
            f"{challenge.algorithm} needs a card",
            reason=DeclineReason.unsupported,
            hint=f"MILLRACE_COMPUTECHAIN__ALGORITHM={PORTABLE} runs on a CPU as well",
        )
    ensure_fits_here(challenge.n)
    return solve_on_cpu(challenge, sampled_rows)


def _free_card(locks: Path) -> int | None:
    """A card that nobody uses now, the first one if all are in use; None if there is none at all."""
    try:
        count = cupy_device.cards()
    except Declined as error:
        _logger.info("on the CPU: %s", error.message)
        return None
    for number in range(count):
        try:
            with cupy_device.reserved(number, locks):
                return number
        except DeviceBusy:
            continue
    return 0 if count else None
