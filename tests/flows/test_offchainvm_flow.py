"""The life of an OffchainVM request as a flow in this process, against a local NEAR, Git host and IPFS."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from offchainvm_world import ECHO, HOG, LIMITS, LOOP, TRAP, World, offchainvm_world
from prefect.client.orchestration import get_client

from flows.adhoc import compile_by_hand, execute_wasm_by_hand
from flows.offchainvm import offchainvm_job
from flows.watch import watch
from localnet.crates import SAMPLES, CratesLocalnet
from localnet.near import OPERATOR, Dialect
from millrace.receipt import JobOutcome
from stages.execute.wasm.interface import WasmExecution, WasmLimits
from stages.fetch.module import Module

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]


@pytest.fixture(params=[Dialect.head])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with offchainvm_world(request.param, tmp_path, monkeypatch) as running:
        yield running


async def test_a_request_is_answered_and_its_receipt_says_everything(world: World) -> None:
    job_id = world.ask(world.module(ECHO), input_data="the mill turns")
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert json.loads(base64.b64decode(world.answered()["SuccessValue"])) == "the mill turns"
    assert world.chain.pending() == []
    receipt = world.receipt(job_id)
    assert receipt.outcome is JobOutcome.settled
    assert receipt.execution is not None
    assert (receipt.execution.status, receipt.execution.most_instructions) == ("ok", LIMITS["max_instructions"])
    assert 0 < (receipt.execution.instructions or 0) < 10_000
    assert receipt.worker == OPERATOR
    assert (receipt.fee or 0) > 0 < (receipt.price or 0)
    assert world.read(receipt.result_cid) == b"the mill turns"
    evidence = json.loads(world.read(receipt.evidence_cid))
    assert evidence["run"]["fuel"] == receipt.execution.instructions
    assert world.resolutions() == 1
    assert world.outbox.unsettled() == []
    assert world.receipts.verify()[0] == 1


@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        (LOOP, "out_of_fuel", "out of fuel: more than 50000000 instructions"),
        (TRAP, "unreachable", "unreachable"),
        (HOG, "unreachable", "unreachable"),
    ],
)
async def test_a_program_that_fails_is_answered_with_why(world: World, program: str, status: str, words: str) -> None:
    job_id = world.ask(world.module(program))
    assert (await world.do(job_id)).name == "Settled"
    receipt = world.receipt(job_id)
    assert receipt.execution is not None
    assert receipt.execution.status == status
    assert json.loads(world.read(receipt.result_cid))["error"] == status
    assert base64.b64decode(world.answered()["SuccessValue"]) == b"null"
    assert words in _told_to_contract(world)


def _told_to_contract(world: World) -> str:
    blocks = [world.chain.block(height) for height in range(world.chain.height() + 1)]
    return "".join(
        call.args.decode()
        for block in blocks
        if block
        for sent in block.transactions
        if sent.transaction.signer_id == OPERATOR
        for call in sent.transaction.calls
    )


async def test_a_module_with_another_hash_is_never_run(world: World) -> None:
    source = world.module(ECHO)
    source["WasmUrl"]["hash"] = "0" * 64
    job_id = world.ask(source)
    assert (await world.do(job_id)).name == "Settled"
    receipt = world.receipt(job_id)
    assert receipt.execution is None
    assert "has the SHA-256" in _told_to_contract(world)
    assert receipt.evidence_cid in _told_to_contract(world)


async def test_doing_a_done_request_again_changes_nothing(world: World) -> None:
    job_id = world.ask(world.module(ECHO), input_data="once")
    assert (await world.do(job_id)).name == "Settled"
    assert (await world.do(job_id)).name == "Settled"
    assert world.resolutions() == 1
    assert world.receipts.verify()[0] == 1


async def test_two_flow_runs_of_one_request_at_once_land_one_answer(world: World) -> None:
    job_id = world.ask(world.module(ECHO), input_data="once")
    states = await asyncio.gather(world.do(job_id), world.do(job_id))
    assert {state.name for state in states} == {"Settled"}
    assert world.resolutions() == 1


needs_builder = pytest.mark.skipif(
    not os.environ.get("TEST_BUILDER_IMAGE"),
    reason="needs a builder, as root: export DOCKER_HOST=$(.ci/docker start)"
    " TEST_BUILDER_IMAGE=$(deployments/images/wasm-builder/from-debian)",
)

RUST = {
    "Cargo.toml": b'[package]\nname = "tool"\nversion = "0.1.0"\nedition = "2021"\n'
    b'[lib]\ncrate-type = ["cdylib"]\n[profile.release]\npanic = "abort"\n',
    "src/lib.rs": b"""
static mut ANSWER: [u8; 8] = [4, 0, 0, 0, b'm', b'i', b'l', b'l'];
#[no_mangle]
pub extern "C" fn execute(_at: i32, _length: i32) -> i32 { &raw mut ANSWER as *mut u8 as i32 }
""",
}


@needs_builder
@pytest.mark.parametrize("world", list(Dialect), indirect=True)
async def test_a_repository_is_compiled_and_answers_the_request_for_it(world: World) -> None:
    repository = world.git.repository("alice/tool")
    commit = repository.commit(RUST)
    source: dict[str, Any] = {
        "repo": world.git.url_of(repository),
        "commit": commit,
        "build_target": "wasm32-unknown-unknown",
    }
    wanted = source if world.net.dialect is Dialect.early else {"GitHub": source}
    job_id = world.ask(wanted)
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert json.loads(base64.b64decode(world.answered()["SuccessValue"])) == "mill"
    receipt = world.receipt(job_id)
    assert receipt.execution is not None
    assert receipt.execution.source == f"{world.git.url_of(repository)}@{commit}"
    build = json.loads(world.read(receipt.evidence_cid))["module"]["build"]
    assert build["commit"] == commit
    assert build["image"] == os.environ["TEST_BUILDER_IMAGE"]
    assert "Finished" in build["log"]
    async with get_client() as client:
        shown = [str(a.data) for a in await client.read_artifacts() if build["wasm_sha256"] in str(a.data)]
    assert any("# Built" in text for text in shown)


@needs_builder
async def test_dependencies_come_from_the_registry_and_the_evidence_says_which(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CratesLocalnet() as registry:
        registry.publish(*SAMPLES)
        monkeypatch.setenv("MILLRACE_COMPILE__REGISTRY_MIRROR", registry.index)
        monkeypatch.setenv("MILLRACE_COMPILE__ALLOW_PRIVATE_REGISTRY", "true")
        repository = world.git.repository("alice/tool")
        commit = repository.commit(
            {
                "Cargo.toml": RUST["Cargo.toml"] + b'[dependencies]\ndoubler = "0.3"\n',
                "src/lib.rs": RUST["src/lib.rs"] + b"pub fn more() -> u32 { doubler::double(1) }\n",
            }
        )
        source = {"repo": world.git.url_of(repository), "commit": commit, "build_target": "wasm32-unknown-unknown"}
        job_id = world.ask({"GitHub": source})
        state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert json.loads(base64.b64decode(world.answered()["SuccessValue"])) == "mill"
    build = json.loads(world.read(world.receipt(job_id).evidence_cid))["module"]["build"]
    assert any(each.startswith("doubler ") for each in build["dependencies"])
    assert 'name = "doubler"' in build["made_lock"]


@needs_builder
async def test_a_repository_that_does_not_compile_is_answered_with_the_compilers_words(world: World) -> None:
    repository = world.git.repository("alice/tool")
    commit = repository.commit({**RUST, "src/lib.rs": b"fn broken( {"})
    job_id = world.ask({"GitHub": {"repo": world.git.url_of(repository), "commit": commit}})
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert "error: this file contains an unclosed delimiter" in _told_to_contract(world)
    evidence = json.loads(world.read(world.receipt(job_id).evidence_cid))
    assert evidence["build"]["reason"] == "compile_error"
    assert "src/lib.rs:1:13" in evidence["build"]["log"]


@needs_builder
@pytest.mark.parametrize("world", list(Dialect), indirect=True)
async def test_an_unknown_commit_is_answered_with_a_failure(world: World) -> None:
    repository = world.git.repository("alice/tool")
    repository.commit({"Cargo.toml": b""})
    source: dict[str, Any] = {"repo": world.git.url_of(repository), "commit": "e" * 40}
    job_id = world.ask(source if world.net.dialect is Dialect.early else {"GitHub": source})
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert "does not have this commit" in _told_to_contract(world)
    assert world.receipt(job_id).execution is None


@needs_builder
async def test_a_repository_is_compiled_and_its_module_run_by_hand(world: World) -> None:
    repository = world.git.repository("alice/tool")
    commit = repository.commit(RUST)
    module: Module = await compile_by_hand(world.git.url_of(repository), commit[:10], "wasm32-unknown-unknown")
    run: WasmExecution = await execute_wasm_by_hand(module.cid)
    assert (run.status, run.output) == ("ok", b"mill")
    starved: WasmExecution = await execute_wasm_by_hand(module.cid, limits=WasmLimits(max_instructions=1))
    assert starved.status == "out_of_fuel"
    assert world.resolutions() == 0


async def test_without_a_builder_what_is_to_be_compiled_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_COMPILE__IMAGE", "")
    job_id = world.ask({"GitHub": {"repo": "https://127.0.0.1/alice/tool", "commit": "main"}})
    state = await world.do(job_id)
    assert state.name == "Declined"
    assert (state.message or "").startswith("no_sandbox: ")
    assert world.resolutions() == 0


async def test_what_we_do_not_serve_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_NEAR__SENDERS", "somebody.else")
    state = await world.do(world.ask(world.module(ECHO)))
    assert (state.name, (state.message or "")[:12]) == ("Declined", "not_allowed:")


async def test_watch_starts_a_flow_run_for_each_request(world: World) -> None:
    async with get_client() as client:
        await client.create_deployment(await client.create_flow(offchainvm_job), "docker")
    first = await watch("offchainvm", 0.0, return_state=True)
    assert first.name == "Nothing new"
    job_id = world.ask(world.module(ECHO))
    while world.chain.height() < int(job_id.partition("-")[0]) + 2:
        world.chain.make_block()
    state = await watch("offchainvm", 0.0, return_state=True)
    assert state.name == "Started 1", state.message
    async with get_client() as client:
        runs = await client.read_flow_runs()
        assert [run.parameters["job_id"] for run in runs if "job_id" in run.parameters].count(job_id) == 1
