"""The later API's work: ask for requests, claim a job of one, tell how it ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictBool

from millrace.errors import Permanent
from protocols.coordinator.early import long_poll, sayable
from protocols.coordinator.executions import Capability, Claim, JobReport, PolledExecution, execution_of
from protocols.coordinator.link import Link
from protocols.coordinator.tasks import wire_source

_OUTPUT_FORMS = ("Bytes", "Text", "Json")


class UnknownJob(Permanent):
    """The coordinator has no such job: whatever it was, nobody waits for its report."""


class _Created(BaseModel):
    model_config = ConfigDict(frozen=True)

    created: StrictBool


class Jobs:
    """The calls under `/executions` and `/jobs`. All raise Transient, NotLetIn and Refused as `Link.call` does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def poll(
        self,
        capabilities: Collection[Capability],
        timeout_seconds: int = 60,
        *,
        queue: Literal["compile", "execute"] | None = None,
    ) -> PolledExecution | None:
        """The next request for one of the capabilities, waited for up to `timeout_seconds` (1 to 120), or None.

        `queue` asks one queue alone. Raises MalformedTask for one that cannot be read, which is gone all the same,
        as is one given out to a poll that was cancelled meanwhile: to drain, let the last poll end.
        """
        query = {"capabilities": ",".join(_named(capabilities)), **({"queue": queue} if queue else {})}
        document = await long_poll(self._link, "/executions/poll", query, timeout_seconds)
        return None if document is None else execution_of(document)

    async def create(self, execution: PolledExecution) -> bool:
        """Queue a request, as an event monitor does; whether it is new.

        A coordinator knows a request only once it was claimed: two creates before that queue it twice.
        """
        fields = execution.model_dump(mode="json", exclude_none=True)
        return (await self._link.read(_Created, "POST", "/executions/create", _with_source(fields, execution))).created

    async def claim(
        self, execution: PolledExecution, worker_id: str, capabilities: Collection[Capability]
    ) -> Claim | None:
        """What of the request is ours to do now; None if somebody else has it, or it is not ready.

        After a Transient a job may be ours without our knowing, and then stays claimed for ever. Raises Unreadable if
        the answer is not one.
        """
        body: dict[str, Any] = {
            "request_id": execution.request_id,
            "data_id": execution.data_id,
            "worker_id": worker_id,
            "resource_limits": execution.resource_limits.model_dump(mode="json"),
            "user_account_id": execution.user_account_id or execution.context.sender_id,
            "near_payment_yocto": _decimal(execution.near_payment_yocto),
            "transaction_hash": execution.transaction_hash or execution.context.transaction_hash,
            "capabilities": _named(capabilities),
            "compile_only": execution.compile_only,
            "force_rebuild": execution.force_rebuild,
            "has_compile_result": execution.compile_result is not None,
            "project_uuid": execution.project_uuid,
            "project_id": execution.project_id,
        }
        document = await self._link.document("POST", "/jobs/claim", _with_source(body, execution), nothing=(204, 409))
        if document is None:
            return None
        claim = self._link.understood(Claim, document, "POST /jobs/claim")
        return claim if claim.jobs else None

    async def complete(self, report: JobReport) -> None:
        """Tell how a job ended. Told twice, a compilation's executions are queued twice; claims tell them apart.

        Raises UnknownJob if the coordinator does not have it.
        """
        if report.output is not None and (len(report.output) != 1 or next(iter(report.output)) not in _OUTPUT_FORMS):
            raise ValueError(f"an output is one of {', '.join(_OUTPUT_FORMS)}")
        body = {
            "job_id": report.job_id,
            "success": report.success,
            "output": report.output,
            "error": None if report.error is None else sayable(report.error),
            "error_category": report.error_category,
            "time_ms": report.time_ms,
            "instructions": report.instructions,
            "wasm_checksum": report.wasm_checksum,
            "actual_cost_yocto": _decimal(report.actual_cost_yocto),
            "compile_cost_yocto": _decimal(report.compile_cost_yocto),
            "compile_result": report.compile_result,
            "refund_usd": _decimal(report.refund_usd),
        }
        if await self._link.call("POST", "/jobs/complete", body, nothing=(404,)) is None:
            raise UnknownJob(f"{self._link.label} knows no job {report.job_id}")


def _named(capabilities: Collection[Capability]) -> list[str]:
    if not capabilities:
        raise ValueError("a worker without a capability gets nothing")
    return [capability.value for capability in Capability if capability in capabilities]


def _decimal(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


def _with_source(fields: dict[str, Any], execution: PolledExecution) -> dict[str, Any]:
    source = execution.code_source
    return {**fields, "code_source": None if source is None else wire_source(source)}
