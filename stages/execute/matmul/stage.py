"""The stage: solve a challenge in a child process, within its time."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from millrace.errors import Declined, DeclineReason, Permanent, Transient
from millrace.settings import Settings
from millrace.text import printable
from stages.execute.matmul.challenge import LARGEST_SIDE, PORTABLE, Challenge
from stages.execute.matmul.memory import ensure_fits_here
from stages.execute.matmul.request import Failure, Reply, Request
from stages.execute.matmul.solution import Solution

_LOCKS = "devices"
_MOST_OUTPUT_BYTES = 192 * 1024 * 1024
_PIECE_BYTES = 1 << 20
_NOT_THE_CHILDS = ("MILLRACE_", "PREFECT_", "PINATA", "SOLANA_")
"""Beginnings of variables that may hold secrets, or that mean nothing to a process that only computes."""


async def execute_challenge(
    block_hash: str, worker_address: str, n: int, algorithm: str, *, settings: Settings
) -> Solution:
    """Solve the challenge on the device of the settings; a cancelled task kills the child before it ends itself.

    Raises Declined if it cannot be done here (no such device, too big), with the reason; Transient if the device is
    busy or fails, if the child is killed, or if it takes longer than the settings allow; Permanent for a challenge
    that cannot be one.
    """
    own = settings.computechain
    try:
        challenge = Challenge.model_validate(
            {"block_hash": block_hash, "worker_address": worker_address, "n": n, "algorithm": algorithm}
        )
    except ValidationError as error:
        told = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise Permanent(
            f"this is no challenge: {printable(told)}", hint="64 hex digits, an address, and a side"
        ) from None
    request = Request(
        challenge=challenge,
        device=own.device,
        sampled_rows=own.sampled_rows,
        locks=(settings.data_dir / _LOCKS).absolute(),
        patience_seconds=own.solve_seconds / 2,
    )
    try:
        async with asyncio.timeout(own.solve_seconds):
            output = await _run_child(request.model_dump_json().encode())
    except TimeoutError:
        hint = "MILLRACE_COMPUTECHAIN__SOLVE_SECONDS is the limit; a smaller MILLRACE_COMPUTECHAIN__SIZE is faster"
        raise Transient(f"not solved within {own.solve_seconds:g} s", hint=hint) from None
    return _solution(output)


def ensure_solvable(n: int, algorithm: str, device: str) -> None:
    """Return if a challenge of that side can be tried here; asks nothing of a card, for that takes a second.

    Raises Declined with the reason: no CuPy for a card that was asked for, or too big for this machine.
    """
    if not 1 <= n <= LARGEST_SIDE:
        raise Declined(
            f"n = {n} is not between 1 and {LARGEST_SIDE}, up to which the product is exact",
            reason=DeclineReason.too_big,
            hint="correct MILLRACE_COMPUTECHAIN__SIZE",
        )
    has_cupy = importlib.util.find_spec("cupy") is not None
    if not has_cupy and (device.startswith("cuda:") or algorithm != PORTABLE):
        raise Declined(
            f"{algorithm} on {device} needs CuPy, which is not installed",
            reason=DeclineReason.unsupported,
            hint="`make setup GPU=1` installs it; MILLRACE_COMPUTECHAIN__DEVICE=cpu does without",
        )
    if device == "cpu" or not has_cupy:
        ensure_fits_here(n)


async def _run_child(request: bytes) -> bytes:
    """What the child writes. Raises Transient if it is killed or fails, with what it said."""
    async with _child() as child:
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise AssertionError("the child has no pipes")
        errors = asyncio.ensure_future(child.stderr.read())
        try:
            child.stdin.write(request)
            child.stdin.close()
            output = bytearray()
            while piece := await child.stdout.read(_PIECE_BYTES):
                output += piece
                if len(output) > _MOST_OUTPUT_BYTES:
                    raise Transient("the child writes more than any solution has", hint="please report this")
            status = await child.wait()
            said = printable((await errors)[-500:].decode(errors="replace").strip())
        finally:
            errors.cancel()
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with code {status}"
        raise Transient(f"the process that solves {how}: {said}", hint="the kernel's log tells if memory ran out")
    return bytes(output)


@contextlib.asynccontextmanager
async def _child() -> AsyncIterator[asyncio.subprocess.Process]:
    """The child process; it has ended when the block is left."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stages.execute.matmul.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(os.environ),
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in ours.items() if not name.upper().startswith(_NOT_THE_CHILDS)}
    # Cards are counted as nvidia-smi and the PCI bus count them, whatever their speed.
    path = os.pathsep.join(filter(None, (str(_HOME), ours.get("PYTHONPATH", ""))))
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **kept, "PYTHONPATH": path}


_HOME = Path(__file__).resolve().parents[3]
"""Where the package `stages` is, for a child that starts in another folder."""


def _solution(output: bytes) -> Solution:
    try:
        reply = Reply.model_validate_json(output)
    except ValidationError:
        raise Transient("the process that solves gave no answer", hint="please report this") from None
    if reply.solution is not None:
        return reply.solution
    raise _error(reply.failure or Failure(kind="permanent", message="no answer"))


def _error(failure: Failure) -> Exception:
    if failure.kind == "declined":
        reason = failure.reason or DeclineReason.unsupported
        return Declined(failure.message, reason=reason, hint=failure.hint)
    kind = Transient if failure.kind == "transient" else Permanent
    return kind(failure.message, hint=failure.hint)
