"""What is uploaded of an OffchainVM job: its output, and the evidence of how it came to be."""

from __future__ import annotations

import base64
import json
from typing import Any

from millrace.errors import MillraceError
from protocols.near.job import OffchainVmJob
from stages.compile.failure import CompileFailure
from stages.execute.wasm.interface import WasmExecution
from stages.fetch.module import Module


def ran(job: OffchainVmJob, module: Module, run: WasmExecution) -> tuple[str, str]:
    """The output in base64 and the evidence as JSON, for `publish_bytes`; in place of an output, why there is none."""
    facts = {
        "module": module.model_dump(mode="json"),
        "run": run.model_dump(mode="json", exclude={"output"}),
        "output_bytes": len(run.output),
    }
    result = run.output if run.succeeded else _failure(run.status, run.detail)
    return base64.b64encode(result).decode(), _evidence(job, facts)


def told(job: OffchainVmJob, text: str) -> tuple[str, str]:
    """The same for a request that only wants to have its module compiled, which another worker has done."""
    return base64.b64encode(text.encode()).decode(), _evidence(job, {"compiled": text})


def refused(job: OffchainVmJob, error: MillraceError) -> tuple[str, str]:
    """The same for a job whose program never ran: why, and what its build wrote."""
    facts: dict[str, Any] = {"error": error.message, "hint": error.hint, "stage": error.stage}
    kind = type(error).__name__
    if isinstance(error, CompileFailure):
        kind = error.reason
        facts["build"] = {"reason": error.reason, "seconds": error.seconds, "log": error.log}
    return base64.b64encode(_failure(kind, error.message)).decode(), _evidence(job, facts)


def _failure(kind: str, detail: str) -> bytes:
    return json.dumps({"error": kind, "detail": detail}, ensure_ascii=False).encode()


def _evidence(job: OffchainVmJob, facts: dict[str, Any]) -> str:
    request = job.request.model_dump(mode="json", exclude={"input_data"})
    document = {"job": job.key, "request": request, **facts}
    return json.dumps(document, ensure_ascii=False, sort_keys=True, indent=1)
