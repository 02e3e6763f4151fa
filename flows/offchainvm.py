"""The life of an OffchainVM job: a repository at a commit, compiled to WASM, executed, its request resolved on NEAR."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.handed import handed_job
from flows.life import closed, current_flow_run_id, job_life, named_after, settled
from flows.modules import module_of
from flows.submit import submit
from flows.tasks import admit_request, execute_request, publish_run, settle
from flows.workbench import Workbench
from millrace.errors import Declined, JobFault
from millrace.receipt import Receipt
from protocols.near.job import parse_handed_id
from stages.discover.coordinator import Handed
from stages.submit.coordinator_outcome import fault_of, module_told
from stages.submit.offchainvm_answer import Answer, answer_of, answer_told, draft_of, is_to_be_answered, refusal_of
from stages.submit.offchainvm_evidence import ran, refused, told


@flow(name="offchainvm-job", flow_run_name=named_after("job_id"))
async def offchainvm_job(job_id: str) -> State[Any]:
    """Answer the request `job_id`: `<height>-<request id>`, or `<request id>-<data id>` of one that was handed out.

    A program that fails, and one that cannot be had or compiled, is answered with a failure. Ends `Settled` with a
    receipt, `Declined` with the reason, or `Failed` with what a person can do about it.
    """
    async with job_life("offchainvm") as life:
        if parse_handed_id(job_id) is not None:
            return await handed_job(life, job_id, _answer)
        try:
            return await settled((await _answer(life, job_id))[0])
        except Declined as error:
            return await closed(error)


async def _answer(life: Workbench, job_id: str, handed: Handed | None = None) -> tuple[Receipt, Answer]:
    """Answer the request; its receipt, and what was answered. `handed` is what its coordinator said, if it has one.

    Raises Declined for a request that is left alone.
    """
    job, image = await admit_request(f"offchainvm/{job_id}", job_id)
    run, built = None, None
    try:
        if (fault := fault_of(handed)) is not None:
            raise fault
        if (known := module_told(handed)) is not None:
            published = await publish_run(job.key, job_id, *told(job, known))
            answer = answer_told(job, known, published)
        else:
            built = await module_of(job, image, handed.checksum if handed is not None else "")
            run = await execute_request(job.key, built.cid, job, life.settings.near.output_bytes)
            published = await publish_run(job.key, job_id, *ran(job, built, run))
            answer = answer_of(job, run, built.seconds, published)
    except (JobFault, Declined) as error:
        if not is_to_be_answered(error):
            raise
        published = await publish_run(job.key, job_id, *refused(job, error))
        answer = refusal_of(error, published)
    submission = await submit(job, answer)
    draft = draft_of(job, run, built, published, life.stage_seconds, current_flow_run_id())
    return await settle(job.key, job, submission, draft), answer
