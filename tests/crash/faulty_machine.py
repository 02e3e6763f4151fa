"""The machine under the workers, able to fail them: a clock that is stepped, and a disk without room.

The workers run unchanged; a small library is loaded into them before the C library. Stand-ins, the Prefect server and
its database live on another machine, whose clock is right.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "faulty_libc.c"
PLACES = ("outbox", "receipts", "results", "ipfs", "leases", "elsewhere")
"""Parts of the data folder, as the library counts them."""

_ORDERS = struct.Struct(f"=3q{len(PLACES)}q")
_NUMBER = struct.Struct("=q")


def missing_compiler() -> str:
    """What has to be installed; empty if nothing has."""
    return "" if shutil.which("cc") else "cc, a C compiler"


class FaultyMachine:
    """The orders that the workers' processes share, and what came of them. `disk` is the folder that can be full."""

    def __init__(self, folder: Path, disk: Path) -> None:
        folder.mkdir()
        library = folder / "faulty_libc.so"
        flags = ["-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
        subprocess.run(["cc", *flags], check=True)
        orders = folder / "orders"
        orders.write_bytes(bytes(_ORDERS.size))
        self.environment = {"LD_PRELOAD": str(library), "FAULTY_MACHINE": str(orders), "FAULTY_DISK": str(disk)}
        with orders.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), orders.stat().st_size)

    def step_clock(self, seconds: int) -> None:
        """Let the clock stand that much before (or, negative, behind) the right time; 0 sets it right."""
        _NUMBER.pack_into(self._shared, 0, seconds)

    def fill_disk(self, full: bool = True) -> None:
        """Let nothing more be written into the folder, or everything again."""
        _NUMBER.pack_into(self._shared, _NUMBER.size, int(full))

    @property
    def wrong_times_told(self) -> int:
        """How often the clock was read while it stood wrong."""
        return int(_ORDERS.unpack_from(self._shared)[2])

    @property
    def refused_writes(self) -> dict[str, int]:
        """How many writes found no room, by place."""
        return dict(zip(PLACES, _ORDERS.unpack_from(self._shared)[3:], strict=True))
