"""What the child that solves is asked and what it answers, without what only the child computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from millrace.errors import DeclineReason
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.solution import Solution


class Request(BaseModel):
    """What to solve, and where."""

    model_config = ConfigDict(frozen=True)

    challenge: Challenge
    device: str
    sampled_rows: int
    locks: Path
    patience_seconds: float


class Failure(BaseModel):
    """Why it was not solved."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["transient", "declined", "permanent"]
    message: str
    hint: str = ""
    reason: DeclineReason | None = None


class Reply(BaseModel):
    """One of the two."""

    model_config = ConfigDict(frozen=True)

    solution: Solution | None = None
    failure: Failure | None = None
