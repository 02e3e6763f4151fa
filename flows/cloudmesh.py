"""The life of a CloudMesh job: a Python program behind a CID, run in a sandbox, its result completed on Solana."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.life import closed, current_flow_run_id, job_life, named_after, settled
from flows.submit import submit
from flows.tasks import admit, execute_python, fetch, settle, upload
from millrace.errors import Declined
from protocols.solana.job import CloudMeshJob
from stages.submit.draft import draft_receipt, result_of


@flow(name="cloudmesh-job", flow_run_name=named_after("job_address"))
async def cloudmesh_job(job_address: str) -> State[Any]:
    """Do the job whose account is at `job_address`.

    Ends `Settled` with a receipt, `Declined` with the reason, or `Failed` with what a person can do about it.
    """
    async with job_life("cloudmesh") as life:
        try:
            job: CloudMeshJob = await admit(f"cloudmesh/{job_address}", job_address)
            program = await fetch(job.key, job.code_cid, life.settings.cloudmesh.code_bytes)
            run = await execute_python(job.key, program.cid, life.settings.limits)
            published = await upload(job.key, job.title, run.result_json, run.evidence_json(job.key))
            submission = await submit(job, result_of(program, run, published))
            draft = draft_receipt(job, program, run, published, life.stage_seconds, current_flow_run_id())
            receipt = await settle(job.key, job, submission, draft)
            return await settled(receipt)
        except Declined as error:
            return await closed(error)
