"""The receipt of a job: what ran, under which limits, what it used, what came out, who says so, what it cost."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from millrace.limits import Limits, Usage


class JobOutcome(StrEnum):
    """How a job ended for us."""

    settled = "settled"  # the chain records our result
    answered = "answered"  # the validator that asked gets our result; no chain records it
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
    instructions: int | None = Field(default=None, description="WASM: instructions run, in the engine's unit of fuel")
    most_instructions: int | None = Field(default=None, description="WASM: instructions allowed")


class Solved(BaseModel):
    """The part of a receipt about a challenge that anybody can check: what it was, its answer, and who found it."""

    model_config = ConfigDict(frozen=True)

    algorithm: str
    size: int = Field(description="Side n of the matrices")
    block_hash: str = Field(description="Of the block that posed the challenge")
    block_height: int | None = Field(default=None, description="None if a validator posed it, who names no height")
    root: str = Field(description="The answer: root over the product's rows, hex")
    bundle_cid: str = Field(
        description="Sampled rows with their paths, which `millrace verify` checks against the root"
    )
    device: str = Field(description="Name of the GPU or CPU")
    device_kind: str = ""
    driver: str = ""
    seconds: dict[str, float] = Field(default_factory=dict, description="Time of each part of the work")
    peak_memory_bytes: int | None = Field(default=None, description="On the device; None if it was not measured")


class Inclusion(BaseModel):
    """A Merkle proof that a block holds our result, complete enough to be checked without the chain.

    `leaf` is hashed, then joined with `path` to `root`, which `header` names and `block_hash` is the hash of.
    """

    model_config = ConfigDict(frozen=True)

    block_hash: str
    block_height: int
    header: dict[str, int | str | None] = Field(description="The block's header, as the node sent it")
    root: str = Field(description="Merkle root over the results in the block, hex")
    leaf: str = Field(description="Our result in the form that is hashed")
    index: int = Field(description="Which of the block's results is ours, from 0")
    count: int = Field(description="How many results the block has")
    path: tuple[str, ...] = Field(description="Hashes beside the way from the leaf to the root, lowest first, hex")


class Receipt(BaseModel):
    """Everything somebody needs to check a job of ours without us. Money is in the chain's smallest unit."""

    model_config = ConfigDict(frozen=True)

    job_key: str
    network: str
    outcome: JobOutcome
    execution: Execution | None = None
    solved: Solved | None = None
    result_cid: str = ""
    result_sha256: str = ""
    evidence_cid: str = ""
    published_to: tuple[str, ...] = ()
    worker: str = Field(default="", description="Address that signed")
    transaction_id: str = ""
    height: int | None = Field(default=None, description="Slot or block the transaction is in")
    fee: int | None = Field(default=None, description="What the transaction cost us")
    price: int | None = Field(default=None, description="What the chain says the job costs its owner")
    inclusion: Inclusion | None = None
    flow_run_id: str = ""
    stage_seconds: dict[str, float] = Field(default_factory=dict, description="Wall time of each stage")
    settled_at: datetime
