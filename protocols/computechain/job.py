"""A ComputeChain job: the challenge that a block's hash is the seed of."""

from __future__ import annotations

import uuid
from typing import Literal

from millrace.job import Job

_NAMESPACE = uuid.UUID("1b0d8e5a-6f43-5c0e-9f0b-0d6f1f3c2a77")
"""Ours, for the ids of tasks; no network has a registry of them."""


class ComputeChainJob(Job):
    """The challenge of the block with `block_hash` at `height`, for the worker at `worker_address`; `size` is n."""

    network: Literal["computechain"] = "computechain"
    height: int
    block_hash: str
    worker_address: str
    task_id: str
    algorithm: str
    size: int

    @classmethod
    def of_block(
        cls, *, chain_id: str, height: int, block_hash: str, worker_address: str, algorithm: str, size: int
    ) -> ComputeChainJob:
        """The job of that block: the same one, with the same task id, for everybody who asks for that address."""
        return cls(
            chain_id=chain_id,
            job_id=f"{height}-{block_hash}",
            height=height,
            block_hash=block_hash,
            worker_address=worker_address,
            task_id=task_id_of(chain_id, block_hash, worker_address),
            algorithm=algorithm,
            size=size,
        )


def task_id_of(chain_id: str, block_hash: str, worker_address: str) -> str:
    """The UUID (version 5) of the task, always the same: the chain would take another one too, and charge for it."""
    return str(uuid.uuid5(_NAMESPACE, f"{chain_id}/{block_hash}/{worker_address}"))
