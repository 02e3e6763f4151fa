"""The receipt of a job: what ran, under which limits, what it used, what came out, who says so, what it cost."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from millrace.limits import Limits, Usage


class JobOutcome(StrEnum):
    """How a job ended for us."""

    settled = "settled"  # the chain records our result
    beaten = "beaten"  # we submitted, and the chain records somebody else's result
    closed = "closed"  # it was cancelled or completed by others before we submitted


class Execution(BaseModel):
    """The part of a receipt about the run itself."""

    model_config = ConfigDict(frozen=True)

    backend: str = Field(description="Sandbox or engine it ran in")
    status: str = Field(description="ok, exit, signal, timeout, oom or output_limit")
    returncode: int | None
    source: str = Field(description="What was run: a CID, or repository and commit")
    source_sha256: str
    limits: Limits
    usage: Usage


class Receipt(BaseModel):
    """Everything somebody needs to check a job of ours without us. Money is in the chain's smallest unit."""

    model_config = ConfigDict(frozen=True)

    job_key: str
    network: str
    outcome: JobOutcome
    execution: Execution | None = None
    result_cid: str = ""
    result_sha256: str = ""
    evidence_cid: str = ""
    published_to: tuple[str, ...] = ()
    worker: str = Field(default="", description="Address that signed")
    transaction_id: str = ""
    height: int | None = Field(default=None, description="Slot or block the transaction is in")
    fee: int | None = Field(default=None, description="What the transaction cost us")
    price: int | None = Field(default=None, description="What the chain says the job costs its owner")
    flow_run_id: str = ""
    stage_seconds: dict[str, float] = Field(default_factory=dict, description="Wall time of each stage")
    settled_at: datetime
