"""An OffchainVM job: a request that somebody made to the contract, and what the program that answers it is told."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from millrace.errors import JobFault
from millrace.job import Job
from protocols.near.contract import (
    Dialect,
    ExecutionRequest,
    GitHubSource,
    ProjectSource,
    WasmUrlSource,
    writable,
)
from protocols.near.events import RequestContext, SeenRequest

NETWORK = "offchainvm"

_DEFAULT_TARGETS = {Dialect.early: "wasm32-unknown-unknown", Dialect.head: "wasm32-wasip1"}
_JOB_ID = re.compile(r"(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,19})")
_HANDED_ID = re.compile(r"(0|[1-9][0-9]{0,19})-([0-9a-f]{64})")


class OffchainVmJob(Job):
    """The request with an id, made at `context.block_height`; `chain_id` is the chain's name and the contract's.

    A coordinator need not say where a request was made: `seen_at` is the chain's height when it handed the job out.
    """

    network: Literal["offchainvm"] = "offchainvm"
    dialect: Dialect
    request: ExecutionRequest
    context: RequestContext
    seen_at: int = Field(default=0, description="Chain's height when a coordinator handed it out; 0: read from a block")

    @classmethod
    def of_request(cls, chain: str, dialect: Dialect, seen: SeenRequest) -> OffchainVmJob:
        """The job of a request: the same one for everybody who sees it."""
        context = seen.context
        return cls(
            chain_id=f"{chain}:{context.contract_id}",
            job_id=f"{context.block_height}-{seen.request.request_id}",
            dialect=dialect,
            request=seen.request,
            context=context,
        )

    @property
    def height(self) -> int:
        """Where the request was made: the chain resumes it for so many blocks after this."""
        return self.seen_at if self.context.block_height is None else self.context.block_height

    @property
    def is_handed_out(self) -> bool:
        """Whether a coordinator handed it out, who is to be told how it ended."""
        return parse_handed_id(self.job_id) is not None

    @property
    def source(self) -> GitHubSource | WasmUrlSource | ProjectSource:
        """Where the program comes from."""
        return self.request.code_source

    @property
    def target(self) -> str:
        """The target to build for, or that the program was built for; where none is named, the dialect's own."""
        named = None if isinstance(self.source, ProjectSource) else self.source.build_target
        return named or _DEFAULT_TARGETS[self.dialect]

    @property
    def told_source(self) -> str:
        """Where the program comes from, for a receipt."""
        match self.source:
            case GitHubSource() as source:
                return f"{source.repo}@{source.commit}"
            case WasmUrlSource() as source:
                return source.url
            case ProjectSource() as source:
                return source.project_id


def parse_job_id(job_id: str) -> tuple[int, int] | None:
    """Height and request id of `<height>-<request id>`; None if it is none."""
    found = _JOB_ID.fullmatch(job_id)
    return None if found is None else (int(found[1]), int(found[2]))


def handed_id(request_id: int, data_id: str) -> str:
    """The job id of a request that a coordinator handed out, who names no height; `data_id` is 64 hex digits."""
    return f"{request_id}-{data_id}"


def parse_handed_id(job_id: str) -> tuple[int, str] | None:
    """Request id and data id of `<request id>-<data id>`; None if it is none."""
    found = _HANDED_ID.fullmatch(job_id)
    return None if found is None else (int(found[1]), found[2])


def guest_environment(job: OffchainVmJob, network_id: str) -> dict[str, str]:
    """The variables that a program sees, as the public worker names them; one that is not known is not set.

    Arguments: `network_id` is testnet or mainnet. Raises JobFault if the requester named something with a NUL in it,
    which no variable can hold.
    """
    request, context, limits = job.request, job.context, job.request.resource_limits
    known: dict[str, object | None] = {
        "NEAR_SENDER_ID": request.sender_id,
        "NEAR_CONTRACT_ID": context.contract_id,
        "NEAR_BLOCK_HEIGHT": context.block_height,
        "NEAR_BLOCK_TIMESTAMP": context.block_timestamp_ns,
        "NEAR_RECEIPT_ID": context.receipt_id,
        "NEAR_PREDECESSOR_ID": request.predecessor_id or context.predecessor_id,
        "NEAR_SIGNER_PUBLIC_KEY": context.signer_public_key,
        "NEAR_GAS_BURNT": context.gas_burnt,
        "NEAR_USER_ACCOUNT_ID": request.sender_id,
        "NEAR_PAYMENT_YOCTO": request.payment_yocto,
        "NEAR_TRANSACTION_HASH": context.transaction_hash,
        "NEAR_REQUEST_ID": request.request_id,
        "NEAR_NETWORK_ID": network_id,
        "NEAR_MAX_INSTRUCTIONS": limits.max_instructions,
        "NEAR_MAX_MEMORY_MB": limits.max_memory_mb,
        "NEAR_MAX_EXECUTION_SECONDS": limits.max_execution_seconds,
        "ATTACHED_USD": request.attached_usd,
        "OUTLAYER_EXECUTION_TYPE": "NEAR",
        "OUTLAYER_PROJECT_ID": request.project_id,
        "OUTLAYER_PROJECT_UUID": request.project_uuid,
    }
    told = {name: str(value) for name, value in known.items() if value is not None}
    for name, text in told.items():
        if "\0" in text or writable(text) != text:
            raise JobFault(f"what the request has for {name} cannot be a variable of a program", job=job.key)
    return told
