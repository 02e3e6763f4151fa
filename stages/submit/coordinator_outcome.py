"""What became of handed work, in the words that its coordinator understands."""

from __future__ import annotations

import base64
from typing import Any

from millrace.errors import Declined, DeclineReason, JobFault, MillraceError
from millrace.receipt import JobOutcome, Receipt
from protocols.coordinator.executions import ClaimedJob, ErrorCategory, JobType
from protocols.coordinator.link import MOST_BODY_BYTES
from protocols.near.contract import compact
from protocols.near.contract_head import OutputNotJson, output_of
from stages.compile.failure import CompileFailure
from stages.discover.coordinator import Handed
from stages.fetch.module import Module
from stages.submit.coordinator import Report
from stages.submit.offchainvm_answer import Answer

_ROOM_BYTES = 64 * 1024
"""Around an output, in the body that tells it."""

_DECLINED = {
    DeclineReason.not_allowed: ErrorCategory.access_denied,
    DeclineReason.not_profitable: ErrorCategory.insufficient_payment,
}


class NotAllowed(JobFault):
    """The coordinator does not let this requester have this done."""


def fault_of(handed: Handed | None) -> JobFault | None:
    """Why nothing is to be compiled or run, as the coordinator says; the requester gets it for an answer."""
    for claimed in () if handed is None else handed.claimed:
        if claimed.compile_error is not None:
            return JobFault(claimed.compile_error)
        if not claimed.allowed:
            return NotAllowed("access denied: the coordinator does not allow this request")
    return None


def module_told(handed: Handed | None) -> str | None:
    """What was told of the module, where that is all that the requester wants for an answer."""
    work = None if handed is None else handed.execution
    if work is None or not work.compile_only or work.compile_result is None:
        return None
    told = work.compile_result
    return told if isinstance(told, str) else compact(told).decode()


def answered(handed: Handed, answer: Answer, receipt: Receipt, made_at: float) -> list[Report]:
    """The reports of work whose request was answered on the chain, or by somebody else before us."""
    if receipt.outcome is not JobOutcome.settled:
        words = "the request was settled before our answer did anything"
        return _of_each(handed, made_at, success=False, ran=False, error=words, category=ErrorCategory.failed)
    ran = receipt.execution is not None
    category = None
    if not answer.success:
        category = ErrorCategory.execution_failed if ran else ErrorCategory.compilation_failed
        if isinstance(fault_of(handed), NotAllowed):
            category = ErrorCategory.access_denied
    output, error = _output_of(handed, answer)
    compile_ms = answer.compile_time_ms or 0
    reports = []
    for claimed in handed.claimed or (None,):
        if claimed is not None and claimed.job_type is JobType.compile:
            built = answer.success or ran
            reports.append(_compiled(handed, claimed, built, None if built else error, compile_ms, made_at))
            continue
        reports.append(
            _report(
                handed,
                claimed,
                made_at,
                success=answer.success,
                ran=ran or answer.success,
                error=error,
                category=category,
                output_base64=_told_base64(answer),
                output=output,
                time_ms=answer.time_ms,
                instructions=answer.instructions,
                actual_cost_yocto=receipt.price or 0,
            )
        )
    return _tellable(handed, reports)


def compiled(handed: Handed, module: Module, made_at: float) -> list[Report]:
    """The report of work of which only the module was wanted."""
    claimed = handed.claimed_to(JobType.compile)
    if claimed is None:
        return []
    return [_compiled(handed, claimed, True, None, round((module.seconds or 0.0) * 1000), made_at, module.sha256)]


def failed(handed: Handed, error: MillraceError | str, made_at: float) -> list[Report]:
    """The reports of work that came to nothing, with why."""
    category = ErrorCategory.failed
    if isinstance(error, NotAllowed):
        category = ErrorCategory.access_denied
    elif isinstance(error, JobFault) and (isinstance(error, CompileFailure) or handed.only_compiles):
        category = ErrorCategory.compilation_failed
    elif isinstance(error, Declined):
        category = _DECLINED.get(error.reason, ErrorCategory.failed)
    words = error if isinstance(error, str) else error.message
    return _of_each(handed, made_at, success=False, ran=False, error=words, category=category)


def _of_each(handed: Handed, made_at: float, **told: Any) -> list[Report]:
    return _tellable(handed, [_report(handed, claimed, made_at, **told) for claimed in handed.claimed or (None,)])


def _tellable(handed: Handed, reports: list[Report]) -> list[Report]:
    """Of a request whose claim was lost nothing can be told: we do not know the coordinator's number of it."""
    return reports if handed.task is not None or handed.claimed else []


def _compiled(
    handed: Handed,
    claimed: ClaimedJob,
    success: bool,
    error: str | None,
    time_ms: int,
    made_at: float,
    wasm_sha256: str | None = None,
) -> Report:
    fee = handed.pricing.per_compile_ms_fee if handed.pricing is not None else 0
    return _report(
        handed,
        claimed,
        made_at,
        success=success,
        error=error,
        category=None if success else ErrorCategory.compilation_failed,
        time_ms=time_ms,
        wasm_checksum=claimed.wasm_checksum if success else None,
        compile_result=(wasm_sha256 or claimed.wasm_checksum) if success else None,
        compile_cost_yocto=fee * time_ms,
    )


def _report(handed: Handed, claimed: ClaimedJob | None, made_at: float, **told: Any) -> Report:
    return Report(
        job_id=handed.job_id,
        request_id=handed.request_id,
        made_at=made_at,
        times=handed.times,
        coordinators_id=None if claimed is None else claimed.job_id,
        **told,
    )


def _named(answer: Answer) -> dict[str, Any]:
    """What is told in place of an output that is too large."""
    return {"cid": answer.result_cid, "sha256": answer.result_hash, "bytes": answer.result_bytes}


def _told_base64(answer: Answer) -> str | None:
    """The output for EARLY, which takes it as numbers, four characters a byte at most."""
    if not answer.success:
        return None
    if len(answer.output_base64) * 3 > MOST_BODY_BYTES - _ROOM_BYTES:
        return base64.b64encode(compact(_named(answer))).decode()
    return answer.output_base64


def _output_of(handed: Handed, answer: Answer) -> tuple[dict[str, Any] | None, str | None]:
    """The output in the format that the request asks for, or the error; a large output is named by its CID."""
    if not answer.success or handed.execution is None:
        return None, answer.error or None
    try:
        output = output_of(base64.b64decode(answer.output_base64), handed.execution.response_format)
    except OutputNotJson as error:
        return None, error.message
    if len(compact(output)) > MOST_BODY_BYTES - _ROOM_BYTES:
        output = {"Json": _named(answer)}
    return output, None
