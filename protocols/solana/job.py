"""A CloudMesh job as the rest of Millrace sees it."""

from __future__ import annotations

from typing import Literal

from millrace.job import Job
from protocols.solana.job_account import JobAccount


class CloudMeshJob(Job):
    """A Python program behind a CID, wanted by the account `job_id` on the chain whose genesis hash is `chain_id`."""

    network: Literal["cloudmesh"] = "cloudmesh"
    program_id: str
    owner: str
    title: str
    code_cid: str
    job_type: Literal["cron", "api", "manual"]

    @classmethod
    def from_account(cls, account: JobAccount, *, genesis_hash: str, program_id: str) -> CloudMeshJob:
        """The job that `account` describes."""
        return cls(
            chain_id=genesis_hash,
            job_id=str(account.address),
            program_id=program_id,
            owner=str(account.owner),
            title=account.title,
            code_cid=account.code_cid,
            job_type=account.job_type.name,
        )
