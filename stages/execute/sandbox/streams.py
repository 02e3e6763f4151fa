"""The ends of a run's pipes that we hold: read as they fill, kept up to a limit."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

_CHUNK_BYTES = 65_536
REPORT_BYTES = 4_096
"""bubblewrap's whole report is far shorter."""


@dataclass
class Stream:
    """One pipe; `cut` tells that more came than `limit_bytes`, the rest of which is thrown away."""

    fd: int
    limit_bytes: int
    kept: bytearray = field(default_factory=bytearray)
    cut: bool = False
    open: bool = True

    def __post_init__(self) -> None:
        os.set_blocking(self.fd, False)

    def read(self) -> None:
        """Take what is there now, one chunk of it."""
        try:
            chunk = os.read(self.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self.open = bool(chunk)
        self.kept += chunk
        if len(self.kept) > self.limit_bytes:
            del self.kept[self.limit_bytes :]
            self.cut = True

    def drain(self) -> None:
        """Take what is left once nobody writes any more, up to the limit."""
        while self.open and not self.cut:
            before = len(self.kept)
            self.read()
            if len(self.kept) == before:
                return


def report_entry(report: Stream, name: str) -> int | None:
    """The number that bubblewrap reported as `name`, from the JSON lines it writes; None if it has not (yet)."""
    for line in bytes(report.kept).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get(name), int):
            return int(entry[name])
    return None
