"""Getting the WASM module that a job names: compiled from its repository, or fetched as it is."""

from __future__ import annotations

import asyncio

from prefect.artifacts import acreate_markdown_artifact

from flows.markdown import build_key, build_markdown, code, failed_build_markdown
from flows.tasks import compile_source, fetch_module, fetch_source
from flows.workbench import current_workbench
from millrace.errors import Permanent
from protocols.near.contract import GitHubSource, WasmUrlSource
from protocols.near.job import OffchainVmJob
from stages.compile.commit import commit_of
from stages.compile.docker import Compiled
from stages.compile.failure import CompileFailure
from stages.compile.target import build_target
from stages.fetch.module import Module


async def module_of(job: OffchainVmJob, image: str, checksum: str = "") -> Module:
    """The module of the job's source, in the content store; `image` is the digest of the builder to compile with.

    `checksum` is what a coordinator files it under, if it said so.

    Raises JobFault for what is the job's own fault, Declined for what is not taken here.
    """
    match job.source:
        case GitHubSource() as source:
            anew_for = job.key if job.request.force_rebuild else ""
            compiled = await compiled_module(job.key, source.repo, source.commit, job.target, image, anew_for, checksum)
            return await kept(compiled)
        case WasmUrlSource() as source:
            return await fetch_module(job.key, source.url, source.hash, job.target)
        case other:
            raise Permanent(f"there is no module for {other!r}", job=job.key)


async def compiled_module(
    job_key: str, repo: str, commit: str, target: str, image: str, anew_for: str = "", checksum: str = ""
) -> Compiled:
    """The module compiled of a repository at a commit, its build log shown as an artifact; raises as its stages do."""
    build_target(target)  # nothing is fetched for a target that is none
    source = await fetch_source(job_key, repo, commit)
    try:
        compiled = await compile_source(job_key, commit_of(source, target, image, anew_for, checksum))
    except CompileFailure as error:
        await _show(repo, commit, failed_build_markdown(error))
        raise
    await _show(repo, commit, build_markdown(compiled))
    return compiled


async def kept(compiled: Compiled) -> Module:
    """Put the module into this machine's store: another machine may have compiled it.

    Its time counts only for the flow run that spent it: of twenty requests for one commit, one pays the compiling.
    """
    bench = current_workbench()
    content = await bench.tool("content")
    spent = not compiled.origin and compile_source.name not in bench.reused
    cid = await asyncio.to_thread(content.store.put, compiled.module)
    return Module(
        cid=str(cid),
        sha256=compiled.wasm_sha256,
        size_bytes=compiled.size_bytes,
        target=compiled.target,
        source=f"{compiled.repo}@{compiled.commit}",
        seconds=compiled.seconds if spent else None,
        build=compiled.model_dump(mode="json", exclude={"module"}),
    )


async def _show(repo: str, commit: str, text: str) -> None:
    await acreate_markdown_artifact(text, key=build_key(repo, commit), description=f"Build of {code(repo)}")
