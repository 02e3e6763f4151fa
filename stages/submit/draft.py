"""What is submitted, and the receipt as far as it is known before the chain has spoken."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from millrace.job import Job
from millrace.network import Result
from millrace.receipt import Execution as ReceiptExecution
from millrace.receipt import JobOutcome, Receipt
from stages.execute.python import Execution
from stages.fetch.ipfs import Fetched
from stages.upload.documents import Published


def result_of(program: Fetched, run: Execution, published: Published) -> Result:
    """The result to submit: its CID, and the sizes and times that a cost policy may look at."""
    return Result(
        result_cid=published.result.cid,
        evidence_cid=published.evidence.cid,
        code_bytes=program.size_bytes,
        result_bytes=published.result.size_bytes,
        wall_seconds=run.usage.wall_seconds,
    )


def draft_receipt(
    job: Job,
    program: Fetched,
    run: Execution,
    published: Published,
    stage_seconds: Mapping[str, float],
    flow_run_id: str,
) -> Receipt:
    """The receipt without the chain's part. `stage_seconds` are wall times of this flow run's stages so far."""
    return Receipt(
        job_key=job.key,
        network=job.network,
        outcome=JobOutcome.settled,
        execution=ReceiptExecution(
            backend=run.backend,
            status=run.status,
            returncode=run.returncode,
            source=program.cid,
            source_sha256=program.sha256,
            limits=run.limits,
            usage=run.usage,
        ),
        result_cid=published.result.cid,
        result_sha256=published.result.sha256,
        evidence_cid=published.evidence.cid,
        published_to=published.result.places,
        flow_run_id=flow_run_id,
        stage_seconds=dict(stage_seconds),
        settled_at=datetime.now(UTC),
    )
