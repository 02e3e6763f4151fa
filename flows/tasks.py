"""The stages as tasks: the names that the Prefect UI shows, bound to the functions that do the work."""

from __future__ import annotations

from typing import Any

from flows.stage import Stage
from flows.workbench import current_workbench
from millrace.receipt import Receipt
from protocols.ipfs.content import Content
from stages import admit as admission
from stages.compile.docker import Compiled
from stages.compile.fleet import compile_in_fleet
from stages.discover.claim import claim_work
from stages.discover.coordinator import Handed
from stages.execute import python, request
from stages.execute.matmul.solution import Solution
from stages.execute.matmul.stage import execute_challenge
from stages.execute.wasm.interface import WasmExecution
from stages.fetch import module
from stages.fetch.git import FetchedSource
from stages.fetch.ipfs import Fetched, fetch_content
from stages.fetch.module import Module
from stages.fetch.sources import Sources, fetch_commit
from stages.submit.coordinator_share import share_with_fleet
from stages.submit.record import settle_and_record
from stages.submit.validator import answer_job
from stages.upload.documents import Published, publish_bytes, publish_documents, publish_text
from stages.upload.ipfs import Uploaded


async def _is_kept(fetched: Fetched | Module) -> bool:
    """Whether the store still has it: it may have been emptied, or have set damaged content aside."""
    content: Content = await current_workbench().tool("content")
    return content.store.has(fetched.cid)


async def _archive_is_kept(fetched: FetchedSource) -> bool:
    """Whether this machine has the archive: it may have been removed, or another machine has it."""
    sources: Sources = await current_workbench().tool("sources")
    return sources.has(fetched.sha256)


def _tell_run(run: WasmExecution) -> str:
    return f"{run.status} after {run.milliseconds:.0f} ms and {run.fuel} instructions in {run.runtime}"


admit: Stage[Any] = Stage("admit", admission.admit_job, cached=False, tell=lambda job: f"admitted {job.key}")
admit_challenge: Stage[Any] = Stage(
    "admit", admission.admit_challenge, cached=False, tell=lambda job: f"admitted {job.key}"
)
admit_poc: Stage[admission.AdmittedPocJob] = Stage(
    "admit", admission.admit_poc_job, cached=False, tell=lambda admitted: f"admitted {admitted.key}"
)
admit_request: Stage[admission.AdmittedRequest] = Stage(
    "admit", admission.admit_request, cached=False, tell=lambda admitted: f"admitted {admitted.job.key}"
)
admit_compilation: Stage[admission.AdmittedRequest] = Stage(
    "admit", admission.admit_compilation, cached=False, tell=lambda admitted: f"admitted {admitted.job.key}"
)
claim: Stage[Handed] = Stage("claim", claim_work, cached=False, tell=lambda handed: _claimed(handed))
fetch: Stage[Fetched] = Stage(
    "fetch", fetch_content, tell=lambda f: f"{f.cid}: {f.size_bytes} bytes from {f.source}", holds=_is_kept
)
fetch_source: Stage[FetchedSource] = Stage(
    "fetch",
    fetch_commit,
    tell=lambda f: f"{f.repo} at {f.commit}: {f.files} files, {f.tree_bytes} bytes",
    holds=_archive_is_kept,
)
fetch_module: Stage[Module] = Stage(
    "fetch", module.fetch_module, tell=lambda m: f"{m.source}: {m.size_bytes} bytes", holds=_is_kept
)
compile_source: Stage[Compiled] = Stage(
    "compile",
    compile_in_fleet,
    # The module is part of the result: whoever has the result needs nothing from whoever built it.
    shared=True,
    tell=lambda built: (
        f"{built.wasm_sha256}, {built.size_bytes} bytes, "
        + (f"from {built.origin}" if built.origin else f"after {built.seconds:.1f} s by {built.builder}")
    ),
)
share_module: Stage[None] = Stage(
    "share", share_with_fleet, cached=False, tell=lambda _: "the coordinator has the module"
)
execute_python: Stage[python.Execution] = Stage(
    "execute",
    python.execute_python,
    tell=lambda run: (
        f"{run.status}, return code {run.returncode}, after {run.usage.wall_seconds:.2f} s in {run.backend}"
    ),
)
solve: Stage[Solution] = Stage(
    "execute",
    execute_challenge,
    tell=lambda solution: (
        f"root {solution.root} after {sum(solution.timings.values()):.2f} s on {solution.device.name}"
    ),
)
execute_request: Stage[WasmExecution] = Stage("execute", request.execute_request, tell=_tell_run)
execute_module: Stage[WasmExecution] = Stage("execute", request.execute_module, tell=_tell_run)
upload: Stage[Published] = Stage("upload", publish_documents, tell=lambda p: f"{p.result.cid} to {_list(p.result)}")
publish_run: Stage[Published] = Stage("upload", publish_bytes, tell=lambda p: f"{p.result.cid} to {_list(p.result)}")
publish: Stage[Uploaded] = Stage("upload", publish_text, tell=lambda uploaded: f"{uploaded.cid} to {_list(uploaded)}")
settle: Stage[Receipt] = Stage(
    "settle", settle_and_record, cached=False, tell=lambda receipt: f"{receipt.outcome} by {receipt.transaction_id}"
)
answer: Stage[Receipt] = Stage(
    "answer", answer_job, cached=False, tell=lambda receipt: f"the validator gets {receipt.result_cid}"
)


def _claimed(handed: Handed) -> str:
    if handed.claimed:
        return ", ".join(f"{job.job_type} is job {job.job_id} of the coordinator" for job in handed.claimed)
    return "ours" if handed.is_ours else "not ours"


def _list(uploaded: Uploaded) -> str:
    return ", ".join(uploaded.places)
