"""Where the fork server listens: a socket's address has little room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = "from deployments.fork_server import ensure_room_for_address; print(ensure_room_for_address(), end='')"


@pytest.mark.parametrize("length", [20, 60, 90])
def test_the_address_fits_however_long_the_way_to_the_temporary_files_is(length: int) -> None:
    """Below a long data folder no worker started any more: "AF_UNIX path too long"."""
    folder = Path("/tmp/" + "x" * length)
    folder.mkdir(exist_ok=True)
    try:
        environment = {**os.environ, "TMPDIR": str(folder)}
        told = subprocess.run(
            [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
        ).stdout
    finally:
        folder.rmdir()
    assert len(f"{told}/listener-12345678") <= 107
    assert told.startswith(f"{folder}/pymp-") is (length < 70)
