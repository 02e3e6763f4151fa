"""The local coordinator itself, asked in plain HTTP: what it gives out, its traps, and its bad days."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from localnet.coordinator import CoordinatorLocalnet, compile_task, execution
from localnet.coordinator.board import CALLS
from localnet.coordinator.routes import ROUTES

TOKEN = "token-of-a-test-worker"
LOCK = "compile:https://github.com/a/b:c"
MODULE = b"\0asm\x01\0\0\0"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_760_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def net(clock: Clock) -> Iterator[CoordinatorLocalnet]:
    with CoordinatorLocalnet(token=TOKEN, clock=clock) as running:
        yield running


@pytest.fixture
def http(net: CoordinatorLocalnet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=net.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20) as client:
        yield client


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A call under way, and the list that its result will be in."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def claim(request: dict[str, Any], *capabilities: str, **other: Any) -> dict[str, Any]:
    named = ("request_id", "data_id", "code_source", "resource_limits")
    flags = {"compile_only": False, "force_rebuild": False, "has_compile_result": False}
    asked = {name: request[name] for name in named}
    return {**asked, "worker_id": "w", "capabilities": list(capabilities), **flags, **other}


def done(job_id: int, success: bool, **other: Any) -> dict[str, Any]:
    zeros = {"time_ms": 1, "instructions": 0, "actual_cost_yocto": "0", "compile_cost_yocto": "0"}
    empty = {"output": None, "error": None, "wasm_checksum": None}
    return {"job_id": job_id, "success": success, **zeros, **empty, **other}


def test_the_names_of_calls_are_those_of_the_routes() -> None:
    assert sorted(CALLS) == sorted(route.name for route in ROUTES)


# ---- who is let in ----


def test_all_but_health_wants_the_token(net: CoordinatorLocalnet) -> None:
    with httpx.Client(base_url=net.url) as stranger:
        reply = stranger.get("/health")
        assert (reply.status_code, reply.text) == (200, "OK")
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN}):
            for route in ROUTES:
                if route.name != "health":
                    path = "/" + "/".join("x" if part == "*" else part for part in route.path)
                    refused = stranger.request(route.method, path, headers=headers)
                    assert (refused.status_code, refused.content) == (401, b""), route


def test_a_token_can_be_taken_back(net: CoordinatorLocalnet, http: httpx.Client) -> None:
    assert http.get("/workers/block-cursor").status_code == 200
    net.board.deactivate_tokens()
    assert http.get("/workers/block-cursor").status_code == 401


def test_without_a_token_everybody_is_let_in() -> None:
    with CoordinatorLocalnet() as open_to_all:
        assert httpx.get(f"{open_to_all.url}/workers/block-cursor").json() == {"block_height": None}


# ---- queues ----


@pytest.mark.parametrize(
    ("poll", "create", "document"),
    [
        ("/tasks/poll?timeout=60", "/tasks/create", compile_task(5)),
        ("/executions/poll?timeout=60&capabilities=execution,compilation", "/executions/create", execution(5)),
    ],
)
def test_a_waiting_poll_wakes_when_something_is_created(
    net: CoordinatorLocalnet, http: httpx.Client, poll: str, create: str, document: dict[str, Any]
) -> None:
    thread, replies = in_thread(lambda: http.get(poll))
    net.board.queues.await_polls()
    assert http.post(create, json=document).status_code == 201
    thread.join(20)
    assert replies[0].json()["request_id"] == 5


def test_a_task_popped_is_gone(net: CoordinatorLocalnet, http: httpx.Client) -> None:
    """There is no lease: if its answer is lost, so is the task."""
    net.board.create_task(compile_task(5))
    net.board.fail("tasks_poll", kind="lost_reply")
    with pytest.raises(httpx.TransportError):
        http.get("/tasks/poll?timeout=0")
    assert http.get("/tasks/poll?timeout=0").status_code == 204


def test_a_task_created_twice_is_queued_twice(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    for _ in range(2):
        assert http.post("/tasks/create", json=compile_task(5)).status_code == 201
    assert net.board.queue_lengths()["tasks"] == 2


def test_a_request_created_twice_before_its_claim_is_queued_twice(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    request = execution(5)
    for _ in range(2):
        reply = http.post("/executions/create", json=request)
        assert (reply.status_code, reply.json()["created"]) == (201, True)
    assert net.board.queue_lengths()["compile"] == 2
    assert len(http.post("/jobs/claim", json=claim(request, "compilation")).json()["jobs"]) == 1
    reply = http.post("/executions/create", json=request)
    assert (reply.status_code, reply.json()["created"]) == (200, False)


def test_a_poll_needs_a_capability_and_gets_only_its_own(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    for query in ("", "&capabilities=", "&capabilities=dancing", "&capabilities=execution&queue=tasks"):
        assert http.get(f"/executions/poll?timeout=0{query}").status_code == 400
    net.board.create_execution(execution(5))
    assert http.get("/executions/poll?timeout=0&capabilities=execution").status_code == 204
    both = "/executions/poll?timeout=0&capabilities=execution,compilation"
    assert http.get(f"{both}&queue=execute").status_code == 204
    assert http.get(both).status_code == 200


def test_stopping_does_not_wait_for_who_polls() -> None:
    def poll() -> str:
        try:
            return str(httpx.get(f"{short_lived.url}/tasks/poll?timeout=120", timeout=60).status_code)
        except httpx.TransportError:
            return "cut"

    with CoordinatorLocalnet() as short_lived:
        thread, replies = in_thread(poll)
        short_lived.board.queues.await_polls()
    thread.join(20)
    assert replies in (["204"], ["cut"])


# ---- locks and modules ----


def test_a_lock_key_is_one_segment_of_the_path(http: httpx.Client, net: CoordinatorLocalnet, clock: Clock) -> None:
    """The trap: released by its raw key the lock stays, until it ends by itself."""
    asked = {"lock_key": LOCK, "worker_id": "w", "ttl_seconds": 60}
    assert http.post("/locks/acquire", json=asked).json() == {"acquired": True}
    assert http.delete(f"/locks/release/{LOCK}").status_code == 404
    assert net.board.held_locks() == {LOCK: "w"}
    assert http.delete(f"/locks/release/{quote(LOCK, safe='')}").status_code == 200
    assert http.post("/locks/acquire", json=asked).json() == {"acquired": True}
    clock.seconds += 59
    assert http.post("/locks/acquire", json=asked).json() == {"acquired": False}
    clock.seconds += 2
    assert http.post("/locks/acquire", json=asked).json() == {"acquired": True}


def test_an_upload_wants_every_field(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    fields = {"checksum": "ab" * 32, "repo_url": "r", "commit_hash": "c"}
    file = {"wasm_file": ("m.wasm", MODULE, "application/wasm")}
    for name in fields:
        assert http.post("/wasm/upload", data={**fields, name: ""}, files=file).status_code == 400
    assert http.post("/wasm/upload", data=fields, files={"wasm_file": ("m.wasm", b"")}).status_code == 400
    assert http.post("/wasm/upload", content=b"no form").status_code == 400
    assert http.get(f"/wasm/{'ab' * 32}").status_code == 404
    assert http.post("/wasm/upload", data=fields, files=file).status_code == 201
    reply = http.get(f"/wasm/{'ab' * 32}")
    assert (reply.content, reply.headers["content-type"]) == (MODULE, "application/octet-stream")
    assert http.get(f"/wasm/exists/{'ab' * 32}").json()["created_at"].startswith("2025-10-09T")


def test_a_body_of_more_than_ten_mebibytes_is_refused(http: httpx.Client) -> None:
    assert http.post("/tasks/fail", content=bytes(10 * 1024 * 1024 + 1)).status_code == 413


# ---- jobs ----


def test_one_of_two_claims_gets_the_job(http: httpx.Client) -> None:
    request = execution(5)
    first, second = (http.post("/jobs/claim", json=claim(request, "compilation")).json()["jobs"] for _ in range(2))
    assert (first[0]["job_type"], second) == ("compile", [])


def test_an_execution_is_not_ready_before_its_module(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    request = execution(5)
    assert http.post("/jobs/claim", json=claim(request, "execution")).json()["jobs"] == []
    source = request["code_source"]
    text = f"{source['repo']}:{source['commit']}:{source['build_target']}"
    checksum = hashlib.sha256(text.encode()).hexdigest()
    net.board.put_wasm(checksum, MODULE.hex())
    (job,) = http.post("/jobs/claim", json=claim(request, "execution")).json()["jobs"]
    assert (job["job_type"], job["wasm_checksum"]) == ("execute", checksum)


def test_a_request_only_to_be_compiled_is_never_executed(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    request = execution(5, compile_only=True)
    http.post("/executions/create", json=request)
    asked = claim(request, "compilation", "execution", compile_only=True)
    (job,) = http.post("/jobs/claim", json=asked).json()["jobs"]
    net.board.put_wasm(job["wasm_checksum"], MODULE.hex())
    assert http.post("/jobs/complete", json=done(job["job_id"], True)).status_code == 200
    assert net.board.queue_lengths()["execute"] == 0
    assert http.post("/jobs/claim", json=asked).json()["jobs"] == []


@pytest.mark.parametrize("output", [{"Xml": "a"}, "text", {"Bytes": [256]}, {"Bytes": "AA"}, {"Text": "a", "Json": 1}])
def test_an_output_in_no_known_form_is_refused(http: httpx.Client, output: Any) -> None:
    assert http.post("/jobs/complete", json=done(1, True, output=output)).status_code == 422


def test_reports_on_no_job_or_of_no_category_are_refused(http: httpx.Client) -> None:
    assert http.post("/jobs/complete", json=done(1, True)).status_code == 404
    assert http.post("/jobs/complete", json=done(1, False, error_category="mood")).status_code == 422


def test_a_heartbeat_with_a_fourth_state_is_refused(http: httpx.Client, net: CoordinatorLocalnet) -> None:
    told = {"worker_id": "w", "worker_name": "W", "status": "stale", "current_task_id": None}
    assert http.post("/workers/heartbeat", json=told).status_code == 422
    assert net.board.heartbeats() == {}


def test_a_challenge_lives_for_a_minute(http: httpx.Client, net: CoordinatorLocalnet, clock: Clock) -> None:
    net.board.require_sessions(["ed25519:mine"])
    challenge = http.post("/workers/tee-challenge").json()["challenge"]
    clock.seconds += 60
    asked = {"public_key": "ed25519:mine", "challenge": challenge, "signature": "s"}
    assert http.post("/workers/register-tee", json=asked).status_code == 400


# ---- controls and faults ----


def test_another_process_controls_it(http: httpx.Client) -> None:
    def control(**document: Any) -> Any:
        reply = http.post("/_localnet", json=document)
        assert reply.status_code == 200, reply.text
        return reply.json()["result"]

    control(action="create_task", task=compile_task(5))
    control(action="fail", call="tasks_poll", status=500)
    assert http.get("/tasks/poll?timeout=0").status_code == 500
    assert http.get("/tasks/poll?timeout=0").json() == {"type": "Compile", **compile_task(5)}
    http.post("/tasks/fail", json={"request_id": 5, "error": "x"})
    assert control(action="reports", call="tasks_fail") == [{"request_id": 5, "error": "x"}]
    assert control(action="calls") == {"tasks_poll": 2, "tasks_fail": 1}
    assert http.post("/_localnet", json={"action": "fail", "call": "dance"}).status_code == 400
    assert http.post("/_localnet", content=b"{").status_code == 400


def test_a_fault_before_the_answer_leaves_the_queue_alone(net: CoordinatorLocalnet, http: httpx.Client) -> None:
    net.board.create_task(compile_task(5))
    net.board.fail("*", kind="reset")
    with pytest.raises(httpx.TransportError):
        http.get("/tasks/poll?timeout=0")
    assert http.get("/tasks/poll?timeout=0").status_code == 200


def test_what_is_no_call_is_not_found(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    assert http.post("/tasks/poll").status_code == 405
    assert http.post("/tasks/fail", content=b"{").status_code == 400
    assert http.post("/tasks/fail", json={"request_id": 1}).status_code == 422
    assert http.get("/tasks/poll?timeout=soon").status_code == 400
