"""The life of a ComputeChain job: a challenge seeded by a block, solved on a GPU, its answer put on the chain."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.life import closed, current_flow_run_id, job_life, named_after, settled
from flows.submit import submit
from flows.tasks import admit_challenge, publish, settle, solve
from millrace.errors import Declined
from protocols.computechain.job import ComputeChainJob
from stages.submit.answer import answer_of, draft_answer


@flow(name="computechain-job", flow_run_name=named_after("job_id"))
async def computechain_job(job_id: str) -> State[Any]:
    """Solve the challenge `job_id`, which is `<height>-<block hash>`.

    Ends `Settled` with a receipt, `Declined` with the reason, or `Failed` with what a person can do about it.
    """
    async with job_life("computechain") as life:
        try:
            job: ComputeChainJob = await admit_challenge(f"computechain/{job_id}", job_id)
            solution = await solve(job.key, job.block_hash, job.worker_address, job.size, job.algorithm)
            bundle = await publish(job.key, solution.bundle_json(job.key), f"{job_id}-proof.json")
            submission = await submit(job, answer_of(solution, bundle))
            draft = draft_answer(job, solution, bundle, life.stage_seconds, current_flow_run_id())
            receipt = await settle(job.key, job, submission, draft)
            return await settled(receipt)
        except Declined as error:
            return await closed(error)
