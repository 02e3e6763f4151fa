"""What the later API says and is told: requests for execution, jobs claimed of them, and how a job ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StrictBool, TypeAdapter, model_validator

from millrace.errors import Permanent
from protocols.coordinator.tasks import Checksum, DataId, Limits, StrictU64, checked
from protocols.near.answers import U64, Yocto
from protocols.near.contract import ExecutionRequest, ResourceLimits, SecretsRef, Source, tagged_source


class Capability(StrEnum):
    """What a worker does. One that only compiles gets no executions, and the other way round."""

    compilation = "compilation"
    execution = "execution"


class JobType(StrEnum):
    """What a job is: a worker that can do both claims one after the other."""

    compile = "compile"
    execute = "execute"


class ErrorCategory(StrEnum):
    """Why a job failed, as a coordinator counts it."""

    failed = "failed"
    compilation_failed = "compilation_failed"
    execution_failed = "execution_failed"
    access_denied = "access_denied"
    insufficient_payment = "insufficient_payment"
    custom = "custom"


class _Said(BaseModel):
    """Members that a coordinator leaves out and those that it says are null are the same."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_defaults(cls, value: Any) -> Any:
        return {name: part for name, part in value.items() if part is not None} if isinstance(value, dict) else value


class ChainContext(_Said):
    """Where a request comes from; of requests over HTTPS, most of it is missing."""

    sender_id: str | None = None
    block_height: U64 | None = None
    block_timestamp: U64 | None = None
    contract_id: str | None = None
    transaction_hash: str | None = None
    receipt_id: str | None = None
    predecessor_id: str | None = None
    signer_public_key: str | None = None
    gas_burnt: U64 | None = None


class PolledExecution(_Said):
    """A request for execution. Having it is no right to do it: claim its job first.

    `code_source` is None if a module is all there is. `compile_result` is what the compiler's worker has told.
    """

    request_id: StrictU64
    data_id: DataId
    code_source: Annotated[Source, BeforeValidator(tagged_source)] | None = None
    resource_limits: Limits = ResourceLimits()
    input_data: str = ""
    secrets_ref: SecretsRef | None = None
    response_format: Literal["Bytes", "Text", "Json"] = "Text"
    context: ChainContext = ChainContext()
    user_account_id: str | None = None
    near_payment_yocto: Yocto | None = None
    transaction_hash: str | None = None
    attached_usd: Yocto | None = None
    compile_only: StrictBool = False
    force_rebuild: StrictBool = False
    store_on_fastfs: StrictBool = False
    compile_result: Any = None
    project_uuid: str | None = None
    project_id: str | None = None
    version_key: str | None = None
    is_https_call: StrictBool = False
    call_id: str | None = None
    payment_key_owner: str | None = None
    payment_key_nonce: int | None = None
    binding_kind: str | None = None
    usd_payment: int | str | None = None
    wallet_id: str | None = None

    def contract_request(self) -> ExecutionRequest:
        """The request as the contract's event has it. Raises Permanent if it is none of the contract's.

        Where the coordinator does not say what was paid or when, it is 0.
        """
        sender_id = self.context.sender_id or self.user_account_id
        if self.code_source is None or sender_id is None or self.is_https_call:
            raise Permanent(f"request {self.request_id} names no source or no sender: it is none of the contract's")
        shared = ("request_id", "data_id", "input_data", "response_format", "compile_only", "force_rebuild")
        more = ("store_on_fastfs", "project_uuid", "project_id", "attached_usd", "secrets_ref", "resource_limits")
        return ExecutionRequest(
            **{name: getattr(self, name) for name in (*shared, *more)},
            code_source=self.code_source,
            sender_id=sender_id,
            predecessor_id=self.context.predecessor_id,
            payment_yocto=self.near_payment_yocto or 0,
            timestamp_ns=self.context.block_timestamp or 0,
        )


_EXECUTION = TypeAdapter(PolledExecution)


def execution_of(document: Any) -> PolledExecution:
    """The request that a coordinator gave out. Raises MalformedTask, which names every member that is wrong."""
    return checked(_EXECUTION, document, "execution request")


class ClaimedJob(_Said):
    """A job that is ours. `compile_error` says that there is nothing to execute: report that to the chain.

    `allowed` false means that the requester may not have it done.
    """

    job_id: int
    job_type: JobType
    wasm_checksum: Checksum | None = None
    allowed: StrictBool = True
    compile_cost_yocto: Yocto | None = None
    compile_error: str | None = None
    compile_time_ms: U64 | None = None
    project_uuid: str | None = None
    project_id: str | None = None
    created_at: int | None = None


class Pricing(_Said):
    """What work costs, in yoctoNEAR: `base_fee` and so much for a million instructions and each millisecond."""

    base_fee: Yocto
    per_instruction_fee: Yocto
    per_ms_fee: Yocto
    per_compile_ms_fee: Yocto
    max_compilation_seconds: U64


class Claim(_Said):
    """The answer to a claim. No jobs: somebody else has it, or it is not ready."""

    jobs: tuple[ClaimedJob, ...]
    pricing: Pricing | None = None


@dataclass(frozen=True)
class JobReport:
    """How a job ended.

    `output` is in one of the three forms, `{"Bytes": [...]}`, `{"Text": "..."}` or `{"Json": ...}`, as
    `protocols.near.contract_head.output_of` makes it. `wasm_checksum` and `compile_result` are of compilations,
    `refund_usd` is in the smallest unit.
    """

    job_id: int
    success: bool
    time_ms: int
    instructions: int = 0
    output: dict[str, Any] | None = None
    error: str | None = None
    error_category: ErrorCategory | None = None
    wasm_checksum: str | None = None
    actual_cost_yocto: int = 0
    compile_cost_yocto: int = 0
    compile_result: Any = None
    refund_usd: int | None = None
