"""Requests that mean harm, and outputs that nobody expects: each is answered or declined, and nothing is stuck."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from offchainvm_world import ECHO, LIMITS, World, offchainvm_world
from prefect.client.orchestration import get_client

from localnet.near import Dialect

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with offchainvm_world(Dialect.head, tmp_path, monkeypatch, finality_lag=2) as running:
        yield running


def writes(content: bytes) -> str:
    """A program that writes these bytes."""
    text = "".join(f"\\{byte:02x}" for byte in content)
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 32)
      (data (i32.const 64) "{text}")
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {len(content)}))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


NO_TEXT = bytes(range(256))


@pytest.mark.parametrize(
    ("wanted", "output", "returned"),
    [
        ("Bytes", NO_TEXT, base64.b64encode(NO_TEXT).decode()),
        ("Text", NO_TEXT, None),
        ("Json", NO_TEXT, None),
        ("Json", b"[" * 200 + b"]" * 200, None),
        ("Json", b'"\\ud800"', None),
        ("Json", b"1e999", None),
        ("Json", json.dumps(["x" * 100] * 400).encode(), ["x" * 100] * 400),
        ("Text", b"\0\x1b[2J\xe2\x80\xae", "\0\x1b[2J\u202e"),
        ("Text", b"", ""),
    ],
    ids=lambda value: str(value)[:12],
)
async def test_an_output_comes_as_it_was_asked_for_or_is_a_failure(
    world: World, wanted: str, output: bytes, returned: Any
) -> None:
    job_id = world.ask(world.module(writes(output)), response_format=wanted)
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    assert json.loads(base64.b64decode(world.answered()["SuccessValue"])) == returned
    receipt = world.receipt(job_id)
    assert world.read(receipt.result_cid) == output
    assert (receipt.price == 10**21) is (returned is None)


@pytest.mark.parametrize(
    "source",
    [
        {"GitHub": {"repo": repo, "commit": "a" * 40}}
        for repo in ("file:///etc", "--upload-pack=x", "https://169.254.169.254/a/b", "\0")
    ]
    + [
        {"GitHub": {"repo": "https://127.0.0.1/a/b", "commit": commit}}
        for commit in ("--help", "\0", "`[x](javascript:1)`\u202e")
    ]
    + [
        {"GitHub": {"repo": "https://127.0.0.1/a/b", "commit": "a" * 40, "build_target": target}}
        for target in ("../../etc", "wasm32-wasip1;\0")
    ]
    + [
        {"WasmUrl": {"url": url, "hash": hash_}}
        for url, hash_ in (
            ("https://[::1", "0" * 64),
            ("http://127.0.0.1:1/\0", "0" * 64),
            ("https://127.0.0.1/", "\0"),
        )
    ],
    ids=lambda source: ascii(source)[:60],
)
async def test_a_hostile_source_is_answered_with_a_failure(
    world: World, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.admit.image_digest", lambda _: "sha256:none")
    job_id = world.ask(source)
    state = await world.do(job_id)
    assert state.name == "Settled", (state.name, state.message)
    assert base64.b64decode(world.answered()["SuccessValue"]) == b"null"
    assert world.receipt(job_id).execution is None


async def test_a_name_that_no_program_can_be_told_is_answered_with_a_failure(world: World) -> None:
    job_id = world.ask(world.module(ECHO), params={"project_uuid": "a\0b"})
    state = await world.do(job_id)
    assert state.name == "Settled", (state.name, state.message)


@pytest.mark.parametrize(
    "limits",
    [{"max_instructions": 0}, {"max_memory_mb": 0}, {"max_execution_seconds": 0}, {"max_memory_mb": 2**32 - 1}],
)
async def test_limits_that_are_none_or_too_much_are_left_alone(world: World, limits: dict[str, int]) -> None:
    state = await world.do(world.ask(world.module(ECHO), resource_limits={**LIMITS, **limits}))
    assert (state.name, (state.message or "")[:8]) == ("Declined", "too_big:")


async def test_an_input_with_anything_in_it_reaches_the_program(world: World) -> None:
    text = "\0\x1b[2J\u202e🌊" * 2_000
    job_id = world.ask(world.module(ECHO), input_data=text)
    assert (await world.do(job_id)).name == "Settled"
    assert world.read(world.receipt(job_id).result_cid) == text.encode()[:60_000]


async def test_no_secret_is_in_anything_that_is_kept_or_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    secrets = (world.net.operator.secret_key.removeprefix("ed25519:"), world.ipfs.pinata_jwt)
    world.chain.fail("send_tx", times=2)
    job_id = world.ask(world.module(ECHO), input_data="once")
    states = [await world.do(job_id)]
    world.chain.fail("*", times=1_000)
    states.append(await world.do(job_id))
    world.chain.clear_faults()
    async with get_client() as client:
        artifacts = [str(artifact.data) for artifact in await client.read_artifacts()]
        runs = [run.model_dump_json() for run in await client.read_flow_runs()]
        tasks = [run.model_dump_json() for run in await client.read_task_runs()]
        logs = [line.message for line in await client.read_logs()]
    shown = "".join([*artifacts, *runs, *tasks, *logs, caplog.text, *map(repr, states)])
    kept = "".join(path.read_bytes().decode("latin-1") for path in world.folder.rglob("*") if path.is_file())
    assert "once" in kept
    assert [secret[:8] for secret in secrets if secret in shown or secret in kept] == []
