"""Give the fleet a module that its coordinator waits for: nobody can execute what was compiled before it is there."""

from __future__ import annotations

from protocols.coordinator.client import Coordinator
from protocols.ipfs.content import Content
from protocols.near.contract import GitHubSource
from protocols.near.job import OffchainVmJob
from stages.fetch.module import Module


async def share_with_fleet(
    job: OffchainVmJob, module: Module, checksum: str, *, coordinator: Coordinator | None, content: Content
) -> None:
    """Upload the module under the coordinator's checksum, unless one is there and none was to be built anew.

    Raises Transient, NotLetIn and Refused as the coordinator answers, WasmRefused if it is too large to be kept.
    """
    if coordinator is None or not checksum:
        return
    if not job.request.force_rebuild and await coordinator.wasm.exists(checksum):
        return
    source = job.source
    commit = source.commit if isinstance(source, GitHubSource) else module.sha256
    await coordinator.wasm.upload(
        checksum,
        content.store.get(module.cid),
        repo_url=source.repo if isinstance(source, GitHubSource) else module.source,
        commit_hash=commit,
        build_target=module.target,
    )
