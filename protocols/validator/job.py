"""A job that a PoC validator pushed."""

from __future__ import annotations

from typing import Any, Literal

from millrace.job import Job


class PocJob(Job):
    """One job of the validator at `chain_id`, its host and port: validators are told apart by where they are.

    `payload` is the validator's, unchecked; `worker_address` is whose answer it wants, which is ours.
    """

    network: Literal["validator"] = "validator"
    task_id: str
    payload: dict[str, Any]
    worker_address: str
