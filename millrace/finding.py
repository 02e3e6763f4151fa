"""What a look at the machine or at another server found, for `millrace doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "weak", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis: `missing` stops jobs, `weak` does not; `remedy` is what to do, empty if nothing is."""

    level: Level
    text: str
    remedy: str = ""
