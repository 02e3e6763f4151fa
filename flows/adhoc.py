"""Each stage as a small flow of its own, so that an operator can run one by hand: same code, same limits.

`prefect deployment run 'fetch/adhoc' --param cid=<cid>`
`prefect deployment run 'execute/python' --param code_cid=<cid>`
`prefect deployment run 'execute/gpu' --param block_hash=<hash> --param worker_address=<address> --param n=4096`
`prefect deployment run 'upload/adhoc' --param text='…'` or `--param path=<file>`
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from flows.life import current_flow_run_id, job_life, named_after
from flows.markdown import code, execution_markdown, solution_markdown
from flows.tasks import execute_python, fetch, publish, solve
from millrace.errors import Permanent
from millrace.limits import Limits
from stages.execute.matmul.challenge import PORTABLE, Algorithm
from stages.execute.matmul.solution import Solution
from stages.execute.python import Execution
from stages.fetch.ipfs import Fetched
from stages.upload.ipfs import Uploaded


@flow(name="fetch", flow_run_name=named_after("cid"))
async def fetch_by_hand(cid: str) -> Fetched:
    """Fetch content by its CID, verified, into the worker's store."""
    async with job_life() as life:
        fetched = await fetch(_by_hand(), cid, life.settings.ipfs.max_bytes)
        await _show("Fetched", {"CID": fetched.cid, "bytes": fetched.size_bytes, "from": fetched.source})
        return fetched


@flow(name="execute", flow_run_name=named_after("code_cid"))
async def execute_by_hand(code_cid: str, limits: Limits | None = None) -> Execution:
    """Run the Python program behind `code_cid` in the sandbox, under `limits` or the worker's own."""
    async with job_life() as life:
        program = await fetch(_by_hand(), code_cid, life.settings.cloudmesh.code_bytes)
        run = await execute_python(_by_hand(), program.cid, limits or life.settings.limits)
        await acreate_markdown_artifact(
            execution_markdown(run), key="execution", description=f"Run of {code(code_cid)}"
        )
        return run


@flow(name="execute", flow_run_name=named_after("block_hash"))
async def solve_by_hand(block_hash: str, worker_address: str, n: int, algorithm: Algorithm = PORTABLE) -> Solution:
    """Solve the challenge that this block poses to this address, with matrices of side `n`; nothing is submitted."""
    async with job_life():
        solution = await solve(_by_hand(), block_hash, worker_address, n, algorithm)
        await acreate_markdown_artifact(
            solution_markdown(solution), key="solution", description=f"Challenge of {code(block_hash)}"
        )
        return solution


@flow(name="upload")
async def upload_by_hand(text: str = "", path: Path | None = None) -> Uploaded:
    """Upload a text, or a file of the machine the flow runs on, to the configured back ends."""
    if bool(text) == bool(path):
        raise Permanent("give either text or path", stage="upload", hint="--param text='…' or --param path=<file>")
    async with job_life():
        content = await asyncio.to_thread(path.read_text) if path else text
        uploaded = await publish(_by_hand(), content, path.name if path else "by-hand")
        await _show("Uploaded", {"CID": uploaded.cid, "bytes": uploaded.size_bytes, "to": ", ".join(uploaded.places)})
        return uploaded


def _by_hand() -> str:
    """A job key for work that belongs to no chain: every flow run is its own."""
    return f"by-hand/{current_flow_run_id()}"


async def _show(title: str, rows: dict[str, object]) -> None:
    lines = [f"- {name}: {code(str(value))}" for name, value in rows.items()]
    await acreate_markdown_artifact("\n".join([f"# {title}", *lines]), key=title.lower())
