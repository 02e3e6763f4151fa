"""Each stage as a small flow of its own, so that an operator can run one by hand: same code, same limits.

`prefect deployment run 'fetch/adhoc' --param cid=<cid>`
`prefect deployment run 'execute/python' --param code_cid=<cid>`
`prefect deployment run 'execute/gpu' --param block_hash=<hash> --param worker_address=<address> --param n=4096`
`prefect deployment run 'compile/docker' --param repo=https://github.com/<owner>/<name> --param commit=<sha>`
`prefect deployment run 'execute/wasm' --param module_cid=<cid> --param stdin='…'`
`prefect deployment run 'upload/adhoc' --param text='…'` or `--param path=<file>`
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from flows.life import current_flow_run_id, job_life, named_after
from flows.markdown import code, execution_markdown, solution_markdown, wasm_markdown
from flows.modules import compiled_module, kept
from flows.tasks import execute_module, execute_python, fetch, publish, solve
from millrace.errors import Permanent
from millrace.limits import Limits
from stages.compile.builder import image_digest
from stages.compile.target import BuildTarget
from stages.execute.matmul.challenge import PORTABLE, Algorithm
from stages.execute.matmul.solution import Solution
from stages.execute.python import Execution
from stages.execute.wasm.interface import WasmExecution, WasmLimits
from stages.fetch.ipfs import Fetched
from stages.fetch.module import Module
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


@flow(name="compile", flow_run_name=named_after("repo"))
async def compile_by_hand(repo: str, commit: str, target: str = BuildTarget.wasi_p1) -> Module:
    """Compile a repository at a commit to WASM, in containers; the module is in the worker's store afterwards."""
    async with job_life() as life:
        image = await asyncio.to_thread(image_digest, life.settings)
        module = await kept(await compiled_module(_by_hand(), repo, commit, target, image))
        await _show("Compiled", {"CID": module.cid, "bytes": module.size_bytes, "SHA-256": module.sha256})
        return module


@flow(name="execute", flow_run_name=named_after("module_cid"))
async def execute_wasm_by_hand(
    module_cid: str, stdin: str = "", limits: WasmLimits | None = None, target: str = ""
) -> WasmExecution:
    """Run the WASM module behind `module_cid` on `stdin`, under `limits` or those of a request that names none."""
    async with job_life() as life:
        module = await fetch(_by_hand(), module_cid, life.settings.ipfs.max_bytes)
        run = await execute_module(_by_hand(), module.cid, stdin, limits or WasmLimits(), target)
        await acreate_markdown_artifact(
            wasm_markdown(run), key="wasm-execution", description=f"Run of {code(module_cid)}"
        )
        return run


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
