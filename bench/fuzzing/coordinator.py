"""What a coordinator gives out as work, and answers to a claim: read as the worker reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
from pydantic import SecretStr

from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, presentable, well_said
from localnet.coordinator.samples import compile_task, execution
from millrace.errors import MillraceError, Permanent
from protocols.coordinator.early import EarlyTasks
from protocols.coordinator.executions import Capability, Claim, PolledExecution, execution_of
from protocols.coordinator.jobs import Jobs
from protocols.coordinator.link import Link
from protocols.coordinator.tasks import CompileTask, ExecuteTask, MalformedTask, task_of, wire_source
from protocols.http_json import JsonServer
from protocols.near.contract import ExecutionRequest
from protocols.near.job import handed_id, parse_handed_id

_STATUSES = (200, 200, 200, 200, 200, 201, 204, 301, 400, 401, 404, 409, 422, 429, 500)
_OURS = execution_of(execution(7))


class _Link(Link):
    """A coordinator that answers every call with `status` and `body`."""

    status, body = 200, b""

    def _connect(self) -> JsonServer:
        # Always the same one: a new one, after each call that failed, would take most of the time.
        return _server


def _answer(_: httpx.Request) -> httpx.Response:
    return httpx.Response(_link.status, stream=httpx.ByteStream(_link.body))


_server = JsonServer("a coordinator", timeout_seconds=10)
_server._http = httpx.AsyncClient(transport=httpx.MockTransport(_answer), base_url="http://coordinator.invalid")
_link = _Link("http://coordinator.invalid", SecretStr(""), timeout_seconds=10)
_QUESTIONS: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
    lambda: EarlyTasks(_link).poll(1),
    lambda: Jobs(_link).poll([Capability.compilation], 1),
    lambda: Jobs(_link).claim(_OURS, "worker", [Capability.execution]),
    lambda: Jobs(_link).create(_OURS),
)


def check_coordinator(given: bytes) -> None:
    """Two bytes say what is asked and the status; the answer follows."""
    source = Bytes(given)
    question = _QUESTIONS[source.byte() % len(_QUESTIONS)]
    _link.status = _STATUSES[source.byte() % len(_STATUSES)]
    _link.body = source.rest()
    try:
        answer = event_loop().run_until_complete(question())
    except MillraceError as error:
        well_said(error)
        if isinstance(error, MalformedTask):
            _check_malformed(error, _link.body)
        return
    if isinstance(answer, CompileTask | ExecuteTask):
        _check_task(answer)
    elif isinstance(answer, PolledExecution):
        _check_execution(answer)
    elif isinstance(answer, Claim):
        agree(Claim.model_validate_json(answer.model_dump_json()) == answer, "another claim once persisted")
        agree(len(answer.jobs) > 0, "a claim of nothing")


def _check_malformed(error: MalformedTask, body: bytes) -> None:
    """The failure of a task that cannot be read is told to whom it names itself."""
    document = json.loads(body)
    if error.request_id is not None:
        agree(document["request_id"] == error.request_id and error.request_id < 1 << 64, "another request's failure")
    if error.data_id is not None:
        agree(document["data_id"] == error.data_id == bytes.fromhex(error.data_id).hex(), "another data id's failure")


def _check_task(task: CompileTask | ExecuteTask) -> None:
    agree(task_of(json.loads(task.model_dump_json())) == task, "another task once persisted")
    agree(
        parse_handed_id(handed_id(task.request_id, task.data_id)) == (task.request_id, task.data_id), "another job id"
    )
    if isinstance(task, CompileTask):
        again = {**task.model_dump(mode="json"), "code_source": wire_source(task.code_source)}
        agree(task_of(again) == task, "another task on the wire")
        _check_request(task.contract_request(sender_id="a.near", payment_yocto=0, timestamp_ns=0))


def _check_execution(polled: PolledExecution) -> None:
    agree(execution_of(json.loads(polled.model_dump_json(exclude_none=True))) == polled, "another once persisted")
    try:
        request = polled.contract_request()
    except Permanent as error:
        well_said(error)
        return
    _check_request(request)


def _check_request(request: ExecutionRequest) -> None:
    agree(ExecutionRequest.model_validate_json(request.model_dump_json()) == request, "another request once persisted")
    limits = request.resource_limits
    for number in (request.request_id, limits.max_instructions, limits.max_memory_mb, limits.max_execution_seconds):
        agree(0 <= number < 1 << 64, "a number with more than 64 bits")


def check_documents(given: bytes) -> None:
    """Both kinds of work in whatever JSON, without the way through HTTP."""
    try:
        document = json.loads(given)
    except (ValueError, RecursionError):
        return
    for read, check in ((task_of, _check_task), (execution_of, _check_execution)):
        try:
            work: Any = read(document)
        except MalformedTask as error:
            well_said(error)
            presentable(str(error))
            _check_malformed(error, given)
        else:
            check(work)


def _executions() -> Iterator[dict[str, Any]]:
    yield execution(7)
    yield execution(7, code_source={"type": "WasmUrl", "url": "https://a.invalid/m", "hash": "ab" * 32})
    yield execution(7, code_source=None, context=None, compile_result={"checksum": "ab" * 32}, is_https_call=True)
    yield execution(7, secrets_ref={"profile": "p", "account_id": "a.near"}, attached_usd="5", usd_payment="0.5")
    yield execution(7, input_data="\ud800", payment_key_nonce=4)


def _tasks() -> Iterator[dict[str, Any]]:
    yield {"type": "Compile", **compile_task(7)}
    yield {"type": "Compile", **compile_task(1 << 63, resource_limits=None, input_data=None)}
    execute = {"type": "Execute", "request_id": 7, "data_id": "ab" * 32, "wasm_checksum": "cd" * 32}
    yield execute
    yield {**execute, "request_id": 1 << 64}
    yield {**execute, "data_id": "AB" * 32, "input_data": "x"}


def _documents() -> Iterator[bytes]:
    yield from (json.dumps(one, separators=(",", ":")).encode() for one in (*_tasks(), *_executions()))
    deep = b"[" * 400 + b"]" * 400
    yield json.dumps(execution(7, compile_result=5)).encode().replace(b": 5}", b": " + deep + b"}")


def _answers() -> Iterator[bytes]:
    job = {"job_id": 3, "job_type": "compile", "wasm_checksum": "ab" * 32, "allowed": True, "created_at": 5}
    prices = ("base_fee", "per_instruction_fee", "per_ms_fee", "per_compile_ms_fee")
    pricing = {**dict.fromkeys(prices, "1" + "0" * 21), "max_compilation_seconds": 300}
    claims: tuple[dict[str, Any], ...] = (
        {"jobs": [job], "pricing": pricing},
        {"jobs": []},
        {"jobs": [{**job, "compile_error": "no"}]},
    )
    answers = (tuple(_tasks()), tuple(_executions()), claims, ({"request_id": 7, "created": True},))
    for number, documents in enumerate(answers):
        for document in documents:
            yield bytes([number, 0]) + json.dumps(document, separators=(",", ":")).encode()
        yield bytes([number, 0]) + b"null"
        yield bytes([number, 0]) + DEEP_JSON
        yield bytes([number, 12]) + b"no \x1b[1m such"


DECODERS = (
    Decoder("coordinator answers", check_coordinator, _answers, 2_048),
    Decoder("coordinator documents", check_documents, _documents, 2_048),
)
