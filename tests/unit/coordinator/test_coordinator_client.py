"""The clients against a coordinator: what each call does, and what every failure is to us."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from localnet.coordinator import CoordinatorLocalnet, compile_task, execution
from millrace.errors import Permanent, Transient
from millrace.redaction import redact
from protocols.coordinator.client import Coordinator
from protocols.coordinator.early import POLL_MARGIN_SECONDS, TaskReport
from protocols.coordinator.executions import Capability, ErrorCategory, JobReport, JobType, execution_of
from protocols.coordinator.jobs import UnknownJob
from protocols.coordinator.link import MOST_BODY_BYTES, NotLetIn, Refused
from protocols.coordinator.storage import MOST_WASM_BYTES, WasmRefused, compile_lock_key
from protocols.coordinator.tasks import CompileTask, MalformedTask, task_of
from protocols.coordinator.workers import Heartbeat, WorkerState
from protocols.http_json import JsonServer, Unreadable
from protocols.near.contract_head import output_of

BOTH = tuple(Capability)
MODULE = b"\0asm\x01\0\0\0"
CHECKSUM = "ab" * 32
KEY = compile_lock_key("https://github.com/a/b", "c d?#%2F")


# ---- the early API ----


async def test_a_task_is_polled_once_and_its_end_is_told(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    await coordinator.health()
    sent = task_of({"type": "Compile", **compile_task(5)})
    assert isinstance(sent, CompileTask)
    await coordinator.tasks.create(sent)
    assert await coordinator.tasks.poll(1) == sent
    await coordinator.tasks.complete(TaskReport(5, True, b"\x00\xff", None, 12, 34))
    await coordinator.tasks.fail(6, "half \ud800 of\x1b[2J it\nbroke")
    (done,) = net.board.reports("tasks_complete")
    assert done["output"] == [0, 255]
    assert net.board.reports("tasks_fail") == [{"request_id": 6, "error": "half \\ud800 of\\x1b[2J it\nbroke"}]


async def test_no_task_is_none(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    assert await coordinator.tasks.poll(1) is None


async def test_a_malformed_task_says_what_is_wrong_and_polling_goes_on(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    net.board.create_task({"request_id": 8, "data_id": "00"})
    net.board.create_task(compile_task(9))
    with pytest.raises(MalformedTask, match=r"request 8.*data_id.*code_source"):
        await coordinator.tasks.poll(1)
    task = await coordinator.tasks.poll(1)
    assert task is not None
    assert task.request_id == 9


@pytest.mark.parametrize("seconds", [0, 121])
async def test_a_poll_takes_no_longer_than_a_coordinator_waits(coordinator: Coordinator, seconds: int) -> None:
    with pytest.raises(ValueError, match="1 to 120"):
        await coordinator.tasks.poll(seconds)


async def test_we_wait_longer_for_a_poll_than_the_coordinator_does(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that gives up first loses the task that was popped for it."""
    asked: list[float | None] = []
    fetch = JsonServer.fetch

    async def watched(self: JsonServer, *args: Any, **options: Any) -> Any:
        asked.append(options["timeout_seconds"])
        return await fetch(self, *args, **options)

    monkeypatch.setattr(JsonServer, "fetch", watched)
    await coordinator.tasks.poll(1)
    await coordinator.jobs.poll(BOTH, 1)
    assert asked == [1 + POLL_MARGIN_SECONDS] * 2


# ---- modules and locks ----


async def test_a_module_goes_up_and_comes_down(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    wasm = coordinator.wasm
    assert not await wasm.exists(CHECKSUM)
    assert await wasm.download(CHECKSUM) is None
    await wasm.upload(
        CHECKSUM, MODULE, repo_url="https://github.com/a/b", commit_hash="c", build_target="wasm32-wasip1"
    )
    assert await wasm.exists(CHECKSUM)
    content_sha256 = hashlib.sha256(MODULE).hexdigest()
    assert await wasm.download(CHECKSUM, content_sha256=content_sha256.upper()) == MODULE


async def test_other_bytes_than_were_built_are_refused(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    """The checksum is a cache key: whoever may upload may put anything under it."""
    net.board.put_wasm(CHECKSUM, (MODULE + b"\0").hex())
    with pytest.raises(WasmRefused, match="other bytes"):
        await coordinator.wasm.download(CHECKSUM, content_sha256=hashlib.sha256(MODULE).hexdigest())
    net.board.damage_wasm(CHECKSUM, b"#!/bin/sh".hex())
    with pytest.raises(WasmRefused, match="does not begin"):
        await coordinator.wasm.download(CHECKSUM)
    net.board.put_wasm(CHECKSUM, MODULE.hex())
    net.board.damage_wasm(CHECKSUM, (MODULE + b"\1").hex(), noticed=True)
    assert await coordinator.wasm.download(CHECKSUM) is None


async def test_a_module_above_the_cap_is_neither_sent_nor_read(net: CoordinatorLocalnet) -> None:
    net.board.put_wasm(CHECKSUM, (MODULE + bytes(100)).hex())
    async with Coordinator(net.url, SecretStr("token-of-a-test-worker"), most_wasm_bytes=50) as small:
        with pytest.raises(Unreadable, match="more than 50 bytes"):
            await small.wasm.download(CHECKSUM)
        with pytest.raises(WasmRefused, match="108 bytes"):
            await small.wasm.upload(CHECKSUM, MODULE + bytes(100), repo_url="r", commit_hash="c")
    assert net.board.calls["wasm_upload"] == 0


async def test_the_largest_module_fits_with_the_form_around_it(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    largest = MODULE + bytes(MOST_WASM_BYTES - len(MODULE))
    await coordinator.wasm.upload(CHECKSUM, largest, repo_url="r" * 1000, commit_hash="c" * 40)
    assert await coordinator.wasm.download(CHECKSUM) == largest


async def test_what_is_no_module_or_no_checksum_is_never_asked_for(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    with pytest.raises(WasmRefused):
        await coordinator.wasm.upload(CHECKSUM, b"", repo_url="r", commit_hash="c")
    with pytest.raises(Permanent, match="repository and commit"):
        await coordinator.wasm.upload(CHECKSUM, MODULE, repo_url="", commit_hash="c")
    for checksum in ("../health", "AB" * 32, CHECKSUM + "\n"):
        with pytest.raises(Permanent, match="64 hex"):
            await coordinator.wasm.download(checksum)
    assert not net.board.calls


async def test_a_lock_is_held_by_one_and_free_again_when_released(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    """The public worker releases with a raw key, which is another address: its locks stay until they end."""
    assert await coordinator.locks.acquire(KEY, "me", 60)
    assert not await coordinator.locks.acquire(KEY, "you", 60)
    assert net.board.held_locks() == {KEY: "me"}
    await coordinator.locks.release(KEY)
    assert net.board.held_locks() == {}
    await coordinator.locks.release(KEY)  # absent: no error


# ---- the later API ----


async def test_a_request_is_compiled_then_executed_by_claims(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    jobs = coordinator.jobs
    sent = execution_of(execution(5))
    assert await jobs.create(sent)
    found = await jobs.poll(BOTH, 1)
    assert found == sent
    claim = await jobs.claim(sent, "me", BOTH)
    assert claim is not None
    assert claim.pricing is not None
    (job,) = claim.jobs
    assert (job.job_type, claim.pricing.base_fee) == (JobType.compile, 10**21)
    assert await jobs.claim(sent, "you", BOTH) is None  # somebody else has it
    assert not await jobs.create(sent)
    assert job.wasm_checksum is not None
    await coordinator.wasm.upload(job.wasm_checksum, MODULE, repo_url="r", commit_hash="c")
    await jobs.complete(JobReport(job.job_id, True, 900, wasm_checksum=job.wasm_checksum, compile_cost_yocto=10**20))
    again = await jobs.poll([Capability.execution], 1)
    assert again is not None
    assert again.compile_result == "completed"
    second = await jobs.claim(again, "me", BOTH)
    assert second is not None
    assert second.jobs[0].job_type is JobType.execute
    for form in ("Bytes", "Text", "Json"):
        await jobs.complete(JobReport(second.jobs[0].job_id, True, 3, 17, output=output_of(b'"1"', form)))
    outputs = [report["output"] for report in net.board.reports("jobs_complete")[1:]]
    assert outputs == [{"Bytes": [34, 49, 34]}, {"Text": '"1"'}, {"Json": "1"}]


async def test_a_failed_compilation_comes_back_to_be_told_to_the_chain(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    net.board.create_execution(execution(5))
    found = await coordinator.jobs.poll([Capability.compilation], 1)
    assert found is not None
    claim = await coordinator.jobs.claim(found, "me", [Capability.compilation])
    assert claim is not None
    category = ErrorCategory.compilation_failed
    failed = JobReport(claim.jobs[0].job_id, False, 9, error="no Cargo.toml", error_category=category)
    await coordinator.jobs.complete(failed)
    again = await coordinator.jobs.poll([Capability.execution], 1)
    assert again is not None
    assert again.resource_limits.max_instructions == 0
    told = await coordinator.jobs.claim(again, "me", [Capability.execution])
    assert told is not None
    assert told.jobs[0].compile_error == "no Cargo.toml"


async def test_a_job_that_nobody_knows_is_told_apart(coordinator: Coordinator) -> None:
    with pytest.raises(UnknownJob, match="no job 99"):
        await coordinator.jobs.complete(JobReport(99, False, 1, error="x"))


async def test_an_output_in_no_form_is_a_defect_of_ours(coordinator: Coordinator) -> None:
    with pytest.raises(ValueError, match="Bytes, Text, Json"):
        await coordinator.jobs.complete(JobReport(1, True, 1, output={"Xml": ""}))
    with pytest.raises(ValueError, match="capability"):
        await coordinator.jobs.poll([], 1)


async def test_a_conflict_means_that_somebody_else_has_it(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    net.board.fail("jobs_claim", status=409)
    assert await coordinator.jobs.claim(execution_of(execution(5)), "me", BOTH) is None


async def test_heartbeats_are_truthful_and_give_the_cursor(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    assert await coordinator.workers.block_cursor() is None
    for state in WorkerState:
        told = Heartbeat(worker_id="a", worker_name="A", status=state, event_monitor_block_height=41)
        await coordinator.workers.heartbeat(told)
        assert net.board.heartbeats()["a"]["status"] == state.value
    assert await coordinator.workers.block_cursor() == 41
    with pytest.raises(ValidationError, match="status"):
        Heartbeat.model_validate({"worker_id": "a", "worker_name": "A", "status": "stale"})


async def test_a_session_is_registered_and_shown(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    net.board.require_sessions(["ed25519:mine"])
    net.board.put_wasm("cd" * 32, MODULE.hex())
    source = {"type": "WasmUrl", "url": "https://a.example/m", "hash": "cd" * 32}
    request = execution_of(execution(5, code_source=source))
    with pytest.raises(NotLetIn, match="registered session"):
        await coordinator.jobs.claim(request, "me", BOTH)
    challenge = await coordinator.workers.tee_challenge()
    with pytest.raises(NotLetIn):
        await coordinator.workers.register_tee("ed25519:yours", challenge, "ed25519:s")
    with pytest.raises(Refused):  # a challenge is good for one attempt
        await coordinator.workers.register_tee("ed25519:mine", challenge, "ed25519:s")
    await coordinator.workers.register_tee("ed25519:mine", await coordinator.workers.tee_challenge(), "ed25519:s")
    assert await coordinator.jobs.claim(request, "me", BOTH) is not None


# ---- failures ----


async def test_a_wrong_token_is_permanent_and_never_printed(
    net: CoordinatorLocalnet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Coordinator(net.url, SecretStr("some-other-token")) as stranger:
        await stranger.health()  # wants none
        with pytest.raises(NotLetIn, match="401") as caught:
            await stranger.tasks.poll(1)
        assert "some-other-token" not in f"{caught.value!r}{caught.value}{stranger!r}{caplog.text}"
    assert "some-other-token" not in redact("Bearer some-other-token")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_what_may_pass_is_transient(net: CoordinatorLocalnet, coordinator: Coordinator, status: int) -> None:
    net.board.fail("tasks_complete", status=status, retry_after_seconds=7)
    report = TaskReport(5, False, None, "x", 1, 0)
    with pytest.raises(Transient):
        await coordinator.tasks.complete(report)
    await coordinator.tasks.complete(report)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_will_not_pass_is_permanent_and_quotes_the_reason(
    net: CoordinatorLocalnet, coordinator: Coordinator, status: int
) -> None:
    net.board.fail("tasks_poll", status=status)
    with pytest.raises(Refused, match=f"GET /tasks/poll: status {status}, .*localnet was asked") as caught:
        await coordinator.tasks.poll(1)
    assert caught.value.status == status


@pytest.mark.parametrize("kind", ["reset", "malformed", "other_json", "cut", "endless", "gzip_bomb"])
async def test_nonsense_is_an_error_of_ours_and_the_next_call_works(
    net: CoordinatorLocalnet, coordinator: Coordinator, kind: str
) -> None:
    net.board.fail("locks_acquire", kind=kind)
    with pytest.raises(Transient):
        await coordinator.locks.acquire(KEY, "me", 60)
    net.board.clear_faults()
    await coordinator.locks.release(KEY)
    assert await coordinator.locks.acquire(KEY, "me", 60)


async def test_after_an_error_no_old_connection_is_used_and_other_calls_go_on(
    net: CoordinatorLocalnet, coordinator: Coordinator
) -> None:
    """Pooled connections to a coordinator that was started anew look alive and never answer."""
    link = coordinator._link
    waiting = asyncio.create_task(coordinator.tasks.poll(30))
    await asyncio.to_thread(net.board.queues.await_polls)
    before = link._server
    net.board.fail("heartbeat", kind="reset")
    with pytest.raises(Transient):
        await coordinator.workers.heartbeat(Heartbeat(worker_id="a", worker_name="A", status=WorkerState.online))
    assert link._server is not before
    assert not before._http.is_closed  # the poll is still on it
    net.board.create_task(compile_task(5))
    assert await waiting is not None
    assert before._http.is_closed
    await coordinator.locks.release(KEY)


async def test_a_coordinator_started_anew_is_found_again() -> None:
    first = CoordinatorLocalnet().start()
    port = int(first.url.rpartition(":")[2])
    async with Coordinator(first.url, SecretStr(""), timeout_seconds=5) as client:
        assert not await client.wasm.exists(CHECKSUM)
        poll = asyncio.create_task(client.tasks.poll(60))
        await asyncio.to_thread(first.board.queues.await_polls)
        await asyncio.to_thread(first.stop)
        # The poll is cut off, or told in time that there is nothing.
        (ended,) = await asyncio.gather(poll, return_exceptions=True)
        assert ended is None or isinstance(ended, Transient)
        with pytest.raises(Transient, match="cannot be reached"):
            await client.health()
        with CoordinatorLocalnet(port=port) as second:
            second.board.create_task(compile_task(5))
            assert await client.tasks.poll(1) is not None


async def test_too_much_or_no_json_is_never_sent(net: CoordinatorLocalnet, coordinator: Coordinator) -> None:
    with pytest.raises(Permanent, match="CID"):
        await coordinator.tasks.complete(TaskReport(5, True, bytes(MOST_BODY_BYTES // 2), None, 1, 0))
    with pytest.raises(Permanent, match="infinity"):
        await coordinator.jobs.complete(JobReport(1, True, 1, output={"Json": float("inf")}))
    assert not net.board.calls


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "not a url",
        "http://coordinator.example",
        "https://user:pw@a.example",
        "https://a.example?k=v",
    ],
)
def test_an_address_that_would_give_the_token_away_is_refused(url: str) -> None:
    with pytest.raises(Permanent) as caught:
        Coordinator(url, SecretStr("token-of-a-test-worker"))
    assert "pw" not in str(caught.value)


def test_a_token_that_is_no_header_is_refused_without_being_quoted() -> None:
    with pytest.raises(Permanent, match="no header") as caught:
        Coordinator("http://127.0.0.1:1", SecretStr("line\nbreak-secret"))
    assert "break" not in str(caught.value)
