"""The answer to an OffchainVM request: what a run came to, in the contract's words, and its draft of a receipt."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import Field

from millrace.errors import Declined, DeclineReason, MillraceError
from millrace.limits import MIB, Limits, Usage
from millrace.network import Result
from millrace.receipt import Execution, JobOutcome, Receipt
from protocols.near.contract import (
    Dialect,
    ExecutionRequest,
    OutputTooLarge,
    Resolution,
    ResourcesUsed,
    cut_to_fit,
)
from protocols.near.contract_head import OutputNotJson, output_of
from protocols.near.contract_views import Contract
from protocols.near.job import OffchainVmJob
from protocols.near.transactions import FunctionCall
from stages.execute.wasm.interface import Status, WasmExecution
from stages.fetch.module import Module
from stages.upload.documents import Published

_LONGEST_ERROR_BYTES = 500
"""Of an error's text, which may be all that its requester ever reads and still has to leave room for the CID."""

_ANSWERED_REASONS = frozenset({DeclineReason.too_big, DeclineReason.unsupported, DeclineReason.not_allowed})


class Answer(Result):
    """What is submitted: an output or an error, and what it cost to come by."""

    success: bool
    output_base64: str = Field(default="", description="What the module wrote, if it succeeded")
    error: str = Field(default="", description="Why it failed, for the requester")
    instructions: int = 0
    time_ms: int = 0
    compile_time_ms: int | None = Field(default=None, description="None if nothing was compiled for it")

    @property
    def resources_used(self) -> ResourcesUsed:
        """As the contract counts it."""
        return ResourcesUsed(self.instructions, self.time_ms, self.compile_time_ms)


def answer_of(job: OffchainVmJob, run: WasmExecution, compile_seconds: float | None, published: Published) -> Answer:
    """The answer of a run, whether the module succeeded or not.

    One that did not write what the request's format wants has failed.
    """
    answer = Answer(
        result_cid=published.result.cid,
        evidence_cid=published.evidence.cid,
        result_hash=published.result.sha256,
        result_bytes=published.result.size_bytes,
        wall_seconds=run.milliseconds / 1000,
        success=run.succeeded,
        output_base64=base64.b64encode(run.output).decode() if run.succeeded else "",
        error="" if run.succeeded else failure_of(run),
        instructions=run.limits.max_instructions if run.fuel is None else run.fuel,
        time_ms=round(run.milliseconds),
        compile_time_ms=None if compile_seconds is None else round(compile_seconds * 1000),
    )
    return in_format(job, answer)


def answer_told(job: OffchainVmJob, text: str, published: Published) -> Answer:
    """The answer of a request of which only the module was wanted: what is known of it."""
    answer = Answer(
        result_cid=published.result.cid,
        evidence_cid=published.evidence.cid,
        result_hash=published.result.sha256,
        result_bytes=published.result.size_bytes,
        success=True,
        output_base64=base64.b64encode(text.encode()).decode(),
    )
    return in_format(job, answer)


def in_format(job: OffchainVmJob, answer: Answer) -> Answer:
    """The answer itself, or the failure that it is if its output is not in the format that the request asks for.

    EARLY knows no formats.
    """
    if not answer.success or job.dialect is Dialect.early:
        return answer
    try:
        output_of(base64.b64decode(answer.output_base64), job.request.response_format)
    except OutputNotJson as error:
        return answer.model_copy(update={"success": False, "error": error.message, "output_base64": ""})
    return answer


def refusal_of(error: MillraceError, published: Published) -> Answer:
    """The answer of a request whose program never ran, for a reason that is its own."""
    return Answer(
        result_cid=published.result.cid,
        evidence_cid=published.evidence.cid,
        result_hash=published.result.sha256,
        success=False,
        error=error.message,
    )


def is_to_be_answered(error: MillraceError) -> bool:
    """Whether the requester is to be told: a limit or rule of ours that nobody else will lift is an answer as well."""
    return not isinstance(error, Declined) or error.reason in _ANSWERED_REASONS


def failure_of(run: WasmExecution) -> str:
    """How a module failed, in words: the engine's, and the end of what it wrote to its standard error."""
    words = {
        Status.out_of_fuel: f"out of fuel: more than {run.limits.max_instructions} instructions",
        Status.timeout: f"timeout: more than {run.limits.wall_seconds:g} s",
        Status.memory: f"memory: more than {run.limits.memory_bytes // MIB} MiB",
        Status.output_limit: f"output limit: more than {run.limits.output_bytes} bytes",
    }.get(run.status, run.status.value.replace("_", " "))
    told = f"{words}: {run.detail}" if run.detail and run.detail not in words else words
    said = run.stderr.decode("utf-8", "replace").strip()
    return f"{told}; it said: {said[-300:]}" if said else told


def calls_for(contract: Contract, request: ExecutionRequest, answer: Answer) -> tuple[FunctionCall, ...]:
    """The calls that resolve the request, for one transaction.

    An output that does not fit is replaced by its CID; so is one that is not UTF-8 in EARLY, whose contract would
    return null for it. Raises OutputNotJson for what `in_format` would have told.
    """
    output = base64.b64decode(answer.output_base64)
    named = json.dumps({"cid": answer.result_cid, "sha256": answer.result_hash, "bytes": answer.result_bytes}).encode()
    if contract.dialect is Dialect.early and not _is_text(output):
        output = named
    try:
        return contract.resolve_calls(request, _resolution(answer, output))
    except OutputTooLarge:
        return contract.resolve_calls(request, _resolution(answer, named))


def _is_text(output: bytes) -> bool:
    try:
        output.decode()
    except UnicodeDecodeError:
        return False
    return True


def _resolution(answer: Answer, output: bytes) -> Resolution:
    if answer.success:
        return Resolution(True, answer.resources_used, output=output)
    error = cut_to_fit(answer.error, _LONGEST_ERROR_BYTES)
    return Resolution(False, answer.resources_used, error=f"{error} [evidence: {answer.evidence_cid}]")


def draft_of(
    job: OffchainVmJob,
    run: WasmExecution | None,
    module: Module | None,
    published: Published,
    stage_seconds: Mapping[str, float],
    flow_run_id: str,
) -> Receipt:
    """The receipt without the chain's part; `run` is None if nothing ever ran."""
    return Receipt(
        job_key=job.key,
        network=job.network,
        outcome=JobOutcome.settled,
        execution=None if run is None else _execution(run, module.source if module is not None else job.told_source),
        result_cid=published.result.cid,
        result_sha256=published.result.sha256,
        evidence_cid=published.evidence.cid,
        published_to=published.result.places,
        flow_run_id=flow_run_id,
        stage_seconds=dict(stage_seconds),
        settled_at=datetime.now(UTC),
    )


def _execution(run: WasmExecution, source: str) -> Execution:
    limits = run.limits
    return Execution(
        backend=run.runtime,
        status=run.status,
        returncode=run.code,
        source=source,
        source_sha256=run.module_sha256,
        limits=Limits(
            wall_seconds=limits.wall_seconds, memory_bytes=limits.memory_bytes, output_bytes=max(limits.output_bytes, 1)
        ),
        usage=Usage(
            wall_seconds=run.milliseconds / 1000,
            peak_memory_bytes=run.peak_memory_bytes,
            stdout_bytes=len(run.output),
            stderr_bytes=len(run.stderr),
        ),
        instructions=run.fuel,
        most_instructions=limits.max_instructions,
    )
