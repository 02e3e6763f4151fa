"""What the receipts add up to, kept up to date by reading only the lines that are new."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from millrace.receipt import JobOutcome, Receipt

STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds, in seconds."""

FUEL_BUCKETS = (1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12)
"""Upper bounds, in instructions of the WASM runtime."""

_MOST_SERIES = 64
"""Stages and networks that are told apart; whoever made up more names would fill the memory of whoever asks."""

_OTHER = "other"
_BYTES_A_LOOK = 32 << 20
"""One look reads no more: what is left is read by the next."""


@dataclass
class Histogram:
    """Counts of values up to each bound, as Prometheus wants them."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts = self.counts or [0] * len(self.bounds)
        for index, bound in enumerate(self.bounds):
            self.counts[index] += value <= bound
        self.total += value
        self.count += 1


@dataclass
class Totals:
    """Sums over receipts, by network; money in the chain's smallest unit."""

    jobs: dict[tuple[str, JobOutcome], int] = field(default_factory=lambda: defaultdict(int))
    fees: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prices: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """What the chain says that the jobs we settled cost their owners."""
    stages: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    fuel: dict[str, Histogram] = field(default_factory=dict)
    last: dict[str, Receipt] = field(default_factory=dict)
    """The newest receipt of a transaction that is ours."""
    unreadable: int = 0
    complete: bool = False
    """Whether all that there was has been read once: sums that are behind would look like a counter set back."""

    def add(self, receipt: Receipt) -> None:
        """Count one receipt."""
        network = self._known(receipt.network)
        self.jobs[network, receipt.outcome] += 1
        self.fees[network] += receipt.fee or 0
        if receipt.outcome is JobOutcome.settled:
            self.prices[network] += receipt.price or 0
            self.last[network] = receipt
        for stage, seconds in receipt.stage_seconds.items():
            key = (network, stage) if (network, stage) in self.stages or len(self.stages) < _MOST_SERIES else _REST
            self.stages.setdefault(key, Histogram(STAGE_BUCKETS)).add(seconds)
        if receipt.execution is not None and receipt.execution.instructions is not None:
            self.fuel.setdefault(network, Histogram(FUEL_BUCKETS)).add(receipt.execution.instructions)

    def _known(self, network: str) -> str:
        return network if network in self.fees or len(self.fees) < _MOST_SERIES else _OTHER


_REST = (_OTHER, _OTHER)


class ReceiptTotals:
    """The totals of the receipt log at `path`. It is not verified: `millrace audit verify` does that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self.totals = Totals()

    def refresh(self, most_bytes: int = _BYTES_A_LOOK) -> Totals:
        """Add what was appended since, at most about `most_bytes`; begin anew if the log is another one by now."""
        try:
            log = self._path.open("rb")
        except FileNotFoundError:
            self.totals.complete = True
            return self.totals
        with log:
            state = os.fstat(log.fileno())
            if state.st_ino != self._inode or state.st_size < self._offset:
                self._inode, self._offset, self.totals = state.st_ino, 0, Totals()
            end = min(state.st_size, self._offset + most_bytes)
            log.seek(self._offset)
            while self._offset < end:
                line = log.readline()
                if not line.endswith(b"\n"):
                    self.totals.complete = True  # it is being written
                    return self.totals
                self._offset += len(line)
                self._count(line)
            self.totals.complete |= self._offset >= state.st_size
        return self.totals

    def _count(self, line: bytes) -> None:
        try:
            self.totals.add(Receipt.model_validate(json.loads(line)["receipt"]))
        except (ValueError, KeyError, TypeError, ValidationError):
            self.totals.unreadable += 1
