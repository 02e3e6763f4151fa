"""A commit that many requests want at once: fetched for each, compiled for all of them together."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from offchainvm_world import ECHO, World, offchainvm_world

from flows import modules
from flows.stage import Stage
from localnet.near import OPERATOR, Dialect
from stages import admit
from stages.compile.commit import Commit
from stages.compile.docker import Compiled
from stages.fetch.git import FetchedSource

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]

SOURCE = {"repo": "https://github.com/alice/tool", "commit": "a" * 40, "build_target": "wasm32-wasip1"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with offchainvm_world(Dialect.head, tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commits that were compiled, by a builder that takes half a second and says seven."""
    built: list[str] = []

    def fetch(repo: str, commit: str) -> FetchedSource:
        counted = dict.fromkeys(("files", "tree_bytes", "received_bytes", "archive_bytes"), 0)
        return FetchedSource(repo=repo, asked=commit, commit=commit, sha256="0" * 64, **counted)

    async def compile_it(commit: Commit) -> Compiled:
        built.append(commit.commit)
        await asyncio.sleep(0.5)
        module = bytes(wasmtime.wat2wasm(ECHO))
        return Compiled.model_validate(
            {
                **commit.model_dump(),
                "cache_key": "",
                "module": module,
                "wasm_sha256": hashlib.sha256(module).hexdigest(),
                "size_bytes": len(module),
                "builder": "none",
                "log": "",
                "seconds": 7.0,
            }
        )

    monkeypatch.setattr(admit, "image_digest", lambda _: "sha256:none")
    monkeypatch.setattr(modules, "fetch_source", Stage("fetch", fetch))
    compile_source: Stage[Compiled] = Stage("compile", compile_it, shared=True)
    monkeypatch.setattr(modules, "compile_source", compile_source)
    return built


def compile_times(world: World) -> list[Any]:
    """What the contract was told of compiling, in each answer."""
    blocks = (world.chain.block(height) for height in range(world.chain.height() + 1))
    sent = [each.transaction for block in blocks if block is not None for each in block.transactions]
    answers = [json.loads(call.args) for each in sent if each.signer_id == OPERATOR for call in each.calls]
    return [answer["response"]["resources_used"]["compile_time_ms"] for answer in answers]


async def test_of_many_requests_for_one_commit_one_is_compiled_for_and_pays_for_it(
    world: World, builds: list[str]
) -> None:
    """Each requester was charged the whole time of a build that was made once."""
    jobs = [world.ask({"GitHub": SOURCE}, input_data=str(number)) for number in range(6)]
    states = await asyncio.gather(*(world.do(job_id) for job_id in jobs))
    assert {state.name for state in states} == {"Settled"}
    assert builds == ["a" * 40]
    times = compile_times(world)
    assert sorted(times, key=str) == [7_000, *[None] * 5]
    for number, job_id in enumerate(jobs):
        assert world.read(world.receipt(job_id).result_cid) == str(number).encode()
    assert world.receipts.verify()[0] == 6
