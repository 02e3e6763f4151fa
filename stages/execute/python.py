"""Execute a Python program in the sandbox and write down what came of it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from millrace.limits import Limits, Usage
from stages.execute.beside import beside_the_loop
from stages.execute.sandbox.interface import Outcome, Sandbox, SandboxFault, Spec, Status

Clock = Callable[[], float]
"""Seconds since 1970, as `time.time` gives them."""


class ProgramStore(Protocol):
    """Where programs lie that have been fetched and verified."""

    def get(self, cid: str) -> bytes:
        """The content with that CID."""
        ...


class Content(Protocol):
    """The part of the content back ends that execution needs."""

    @property
    def store(self) -> ProgramStore:
        """The local store."""
        ...


class Execution(BaseModel):
    """What one run of a program came to.

    A program that fails, loops or floods has been executed: its return code and its output are the result.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    returncode: int = Field(description="As subprocess gives it: minus the signal's number where a signal ended it")
    result_json: str = Field(description="The result document: stdout, stderr, returncode and executed_at")
    program_sha256: str
    backend: str = Field(description="Sandbox and interpreter")
    limits: Limits
    usage: Usage
    detail: str = Field(default="", description="How it ended, for a person")
    stdout_base64: str = Field(default="", description="The exact bytes, where the document's text cannot hold them")
    stderr_base64: str = Field(default="", description="The exact bytes, where the document's text cannot hold them")

    def evidence_json(self, job_key: str) -> str:
        """Everything about the run that somebody needs to judge or repeat it, as a JSON document."""
        facts = self.model_dump(mode="json", exclude={"result_json"})
        document = {"job": job_key, **facts, "result": json.loads(self.result_json)}
        return json.dumps(document, ensure_ascii=False, sort_keys=True, indent=1)


async def execute_python(
    code_cid: str, limits: Limits, *, content: Content, sandbox: Sandbox, clock: Clock
) -> Execution:
    """Run the program with that CID, beside the event loop.

    A cancelled task kills the run before it ends itself. Raises SandboxFault (Transient) if the sandbox failed, and
    what the store raises if it has no such content.
    """
    program = content.store.get(code_cid)
    return await beside_the_loop(
        lambda cancel: run_python(program, limits, sandbox=sandbox, clock=clock, cancel=cancel)
    )


def run_python(
    program: bytes, limits: Limits, *, sandbox: Sandbox, clock: Clock, cancel: threading.Event | None = None
) -> Execution:
    """Run `program` and wait for its end. `executed_at` is when it began.

    Raises SandboxFault if the sandbox failed: that says nothing about the job.
    """
    executed_at = datetime.fromtimestamp(clock(), UTC)
    outcome = sandbox.run(Spec(program=program, limits=limits), cancel)
    if outcome.status is Status.sandbox_error or outcome.returncode is None:
        raise SandboxFault(
            f"the sandbox failed: {outcome.detail}", stage="execute", hint="`millrace doctor` finds out what is wrong"
        )
    return Execution(
        status=outcome.status,
        returncode=outcome.returncode,
        result_json=result_document(outcome, limits, executed_at),
        program_sha256=hashlib.sha256(program).hexdigest(),
        backend=outcome.backend,
        limits=limits,
        usage=outcome.usage,
        detail=outcome.detail,
        stdout_base64=_exact(outcome.stdout),
        stderr_base64=_exact(outcome.stderr),
    )


def result_document(outcome: Outcome, limits: Limits, executed_at: datetime) -> str:
    """The result as its network wants it: `stdout`, `stderr`, `returncode`, `executed_at`, and nothing else."""
    stderr = _text(outcome.stderr, limits.output_bytes if outcome.stderr_cut else None)
    if outcome.returncode is not None and outcome.returncode < 0:
        stderr += ("\n" if stderr and not stderr.endswith("\n") else "") + f"[millrace: {outcome.detail}]\n"
    document = {
        "stdout": _text(outcome.stdout, limits.output_bytes if outcome.stdout_cut else None),
        "stderr": stderr,
        "returncode": outcome.returncode,
        "executed_at": executed_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    return json.dumps(document, ensure_ascii=False)


def _text(output: bytes, cut_at: int | None) -> str:
    text = output.decode("utf-8", errors="replace")
    return text if cut_at is None else f"{text}\n[millrace: output cut at {cut_at} bytes]"


def _exact(output: bytes) -> str:
    try:
        output.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(output).decode("ascii")
    return ""
