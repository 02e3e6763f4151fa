"""What solving a challenge gives: the root, the rows that its proof must show, and how it was computed."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.execute.matmul.challenge import Algorithm, Challenge

VERSION = 1
"""Of the bundle and of the proof; a verifier that does not know it says so."""


class DeviceInfo(BaseModel):
    """What computed it. `driver` is the card's, or the linear algebra library of a CPU."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["cpu", "cuda", "rocm"]
    name: str = Field(max_length=200)
    driver: str = Field(default="", max_length=200)


class SampledRow(BaseModel):
    """One row of the product: its entries as little-endian int32 in base64, and its way up the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    row: str
    path: tuple[str, ...] = Field(max_length=64)


class Solution(BaseModel):
    """A solved challenge. `timings` are seconds of wall-clock time; `peak_memory_bytes` is the device's."""

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    challenge: Challenge
    root: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: tuple[SampledRow, ...]
    device: DeviceInfo
    timings: dict[str, float]
    peak_memory_bytes: int | None = None

    @property
    def n(self) -> int:
        """The side of the matrices."""
        return self.challenge.n

    @property
    def algorithm(self) -> Algorithm:
        """How the matrices come about."""
        return self.challenge.algorithm

    def bundle_json(self, job_key: str) -> str:
        """Everything that somebody needs to check the rows, as a JSON document."""
        document = {"job": job_key, **self.model_dump(mode="json")}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    def proof(self, bundle_cid: str) -> str:
        """What goes on the chain: where the bundle is, and what a verifier must know to read it. Compact JSON."""
        document = {
            "v": self.version,
            "algorithm": self.algorithm,
            "n": self.n,
            "rows": len(self.rows),
            "bundle": bundle_cid,
        }
        return json.dumps(document, separators=(",", ":"))
