"""The answer to a challenge: what is submitted, and the receipt as far as it is known before the chain has spoken."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from millrace.network import Result
from millrace.receipt import JobOutcome, Receipt, Solved
from protocols.computechain.job import ComputeChainJob
from protocols.validator.job import PocJob
from stages.execute.matmul.solution import Solution
from stages.upload.ipfs import Uploaded


def answer_of(solution: Solution, bundle: Uploaded) -> Result:
    """The result to submit: the root, and a proof that names the bundle with the rows that were sampled."""
    return Result(
        result_cid=bundle.cid,
        evidence_cid=bundle.cid,
        result_hash=solution.root,
        proof=solution.proof(bundle.cid),
        result_bytes=bundle.size_bytes,
        wall_seconds=sum(solution.timings.values()),
    )


def draft_answer(
    job: ComputeChainJob | PocJob,
    solution: Solution,
    bundle: Uploaded,
    stage_seconds: Mapping[str, float],
    flow_run_id: str,
) -> Receipt:
    """The receipt without the chain's part. `stage_seconds` are wall times of this flow run's stages so far."""
    return Receipt(
        job_key=job.key,
        network=job.network,
        outcome=JobOutcome.settled,
        solved=Solved(
            algorithm=solution.algorithm,
            size=solution.n,
            block_hash=solution.challenge.block_hash,
            block_height=job.height if isinstance(job, ComputeChainJob) else None,
            root=solution.root,
            bundle_cid=bundle.cid,
            device=solution.device.name,
            device_kind=solution.device.kind,
            driver=solution.device.driver,
            seconds=solution.timings,
            peak_memory_bytes=solution.peak_memory_bytes,
        ),
        result_cid=bundle.cid,
        result_sha256=bundle.sha256,
        evidence_cid=bundle.cid,
        published_to=bundle.places,
        worker=job.worker_address,
        flow_run_id=flow_run_id,
        stage_seconds=dict(stage_seconds),
        settled_at=datetime.now(UTC),
    )
