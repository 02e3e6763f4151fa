"""What a run writes: read as it comes, kept up to a limit."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

_CHUNK_BYTES = 65_536
REPORT_BYTES = 4_096
"""bubblewrap's whole report is far shorter."""


@dataclass
class Kept:
    """One output of a run up to its limit; `cut` tells that more came, the rest of which is thrown away."""

    limit_bytes: int
    kept: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def take(self, chunk: bytes | memoryview) -> None:
        """Keep `chunk`, or as much of it as the limit allows."""
        room = self.limit_bytes - len(self.kept)
        self.kept += chunk[:room]
        self.cut = self.cut or len(chunk) > room


class Stream(Kept):
    """One pipe whose end `fd` we hold."""

    def __init__(self, fd: int, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.fd = fd
        self.open = True
        os.set_blocking(fd, False)

    def read(self) -> None:
        """Take what is there now, one chunk of it."""
        try:
            chunk = os.read(self.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self.open = bool(chunk)
        self.take(chunk)

    def drain(self) -> None:
        """Take what is left once nobody writes any more, up to the limit."""
        while self.open and not self.cut:
            before = len(self.kept)
            self.read()
            if len(self.kept) == before:
                return


def report_entry(report: Kept, name: str) -> int | None:
    """The number that bubblewrap reported as `name`, from the JSON lines it writes; None if it has not (yet)."""
    for line in bytes(report.kept).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get(name), int):
            return int(entry[name])
    return None
