"""The calls of both APIs, with the statuses that workers see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localnet.coordinator.board import Board
from localnet.coordinator.queues import COMPILE, EXECUTE, TASKS
from localnet.ipfs.multipart import parse_multipart

_LONGEST_POLL_SECONDS = 120
_DEFAULT_POLL_SECONDS = 60
_STATES = ("online", "busy", "offline")
_CAPABILITIES = {"compilation": COMPILE, "execution": EXECUTE}
_OUTPUT_FORMS = ("Bytes", "Text", "Json")
_CATEGORIES = (
    "pending",
    "in_progress",
    "completed",
    "failed",
    "compilation_failed",
    "execution_failed",
    "access_denied",
    "insufficient_payment",
    "custom",
)


class HttpError(Exception):
    """The call is answered with this status and text."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Request:
    """A call: the part of its path that is a parameter, its query, headers that matter, and its body."""

    argument: str
    query: dict[str, str]
    content_type: str
    session_id: str | None
    body: bytes

    def document(self, required: Sequence[str]) -> dict[str, Any]:
        """The body as an object with these members. Raises HttpError as axum answers what it cannot read."""
        try:
            document = json.loads(self.body)
        except ValueError as error:
            raise HttpError(400, f"Failed to parse the request body as JSON: {error}") from None
        missing = [name for name in required if not isinstance(document, dict) or name not in document]
        if missing:
            raise HttpError(422, f"missing field `{missing[0]}`")
        return dict(document)


Reply = tuple[int, Any]
"""A status, and None, bytes, or a JSON document."""


def _health(board: Board, request: Request) -> Reply:
    return 200, b"OK"


def _tasks_poll(board: Board, request: Request) -> Reply:
    entry = board.queues.pop((TASKS,), _patience(request))
    return (204, None) if entry is None else (200, entry)


def _tasks_create(board: Board, request: Request) -> Reply:
    members = ("request_id", "data_id", "code_source", "resource_limits", "input_data")
    # A duplicate is no conflict, and is queued all the same.
    board.create_task(request.document(members))
    return 201, None


def _tasks_complete(board: Board, request: Request) -> Reply:
    members = ("request_id", "success", "output", "error", "execution_time_ms", "instructions")
    report = request.document(members)
    if report["output"] is not None:
        _check_bytes(report["output"])
    board.note("tasks_complete", report)
    return 200, None


def _tasks_fail(board: Board, request: Request) -> Reply:
    board.note("tasks_fail", request.document(("request_id", "error")))
    return 200, None


def _wasm_download(board: Board, request: Request) -> Reply:
    content = board.modules.content(request.argument)
    return (404, None) if content is None else (200, content)


def _wasm_exists(board: Board, request: Request) -> Reply:
    created_at = board.modules.created_at(request.argument)
    return 200, {"exists": created_at is not None, "created_at": created_at}


def _wasm_upload(board: Board, request: Request) -> Reply:
    try:
        parts = {part.name: part.content for part in parse_multipart(request.content_type, request.body)}
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    if any(not parts.get(name) for name in ("checksum", "repo_url", "commit_hash", "wasm_file")):
        raise HttpError(400)
    target = parts.get("build_target", b"wasm32-wasip1").decode()
    names = [parts[name].decode() for name in ("checksum", "repo_url", "commit_hash")]
    board.modules.put(names[0], parts["wasm_file"], names[1], names[2], target)
    return 201, None


def _locks_acquire(board: Board, request: Request) -> Reply:
    asked = request.document(("lock_key", "worker_id", "ttl_seconds"))
    return 200, {"acquired": board.locks.acquire(asked["lock_key"], asked["worker_id"], asked["ttl_seconds"])}


def _locks_release(board: Board, request: Request) -> Reply:
    board.locks.release(request.argument)
    return 200, None


def _executions_poll(board: Board, request: Request) -> Reply:
    able = [name for name in request.query.get("capabilities", "").split(",") if name]
    queue = request.query.get("queue")
    if not able or any(name not in _CAPABILITIES for name in able) or queue not in (None, COMPILE, EXECUTE):
        raise HttpError(400, "no capability, or no such queue")
    # The compile queue first, whatever the order in which they are named.
    mine = [name for capability, name in _CAPABILITIES.items() if capability in able and queue in (None, name)]
    entry = board.queues.pop(mine, _patience(request))
    return (204, None) if entry is None else (200, entry)


def _executions_create(board: Board, request: Request) -> Reply:
    asked = request.document(("request_id", "data_id", "resource_limits"))
    created = board.create_execution(asked)
    return (201 if created else 200), {"request_id": asked["request_id"], "created": created}


def _jobs_claim(board: Board, request: Request) -> Reply:
    members = ("request_id", "data_id", "worker_id", "code_source", "resource_limits", "capabilities")
    asked = request.document((*members, "compile_only", "force_rebuild", "has_compile_result"))
    if not asked["capabilities"]:
        raise HttpError(400, "no capability")
    if "execution" in asked["capabilities"] and not board.may_execute(request.session_id):
        raise HttpError(401)
    return 200, board.jobs.claim(asked)


def _jobs_complete(board: Board, request: Request) -> Reply:
    members = ("job_id", "success", "output", "error", "time_ms", "instructions", "wasm_checksum")
    report = request.document((*members, "actual_cost_yocto", "compile_cost_yocto"))
    output = report["output"]
    if output is not None:
        if not isinstance(output, dict) or len(output) != 1 or next(iter(output)) not in _OUTPUT_FORMS:
            raise HttpError(422, "output: unknown variant")
        if "Bytes" in output:
            _check_bytes(output["Bytes"])
    if report.get("error_category") not in (None, *_CATEGORIES):
        raise HttpError(422, "error_category: unknown variant")
    if not board.jobs.complete(report):
        return 404, None
    board.note("jobs_complete", report)
    return 200, None


def _heartbeat(board: Board, request: Request) -> Reply:
    told = request.document(("worker_id", "worker_name", "status", "current_task_id"))
    if told["status"] not in _STATES:
        raise HttpError(422, f"status: unknown variant `{told['status']}`, expected one of {', '.join(_STATES)}")
    board.heard_from(told)
    return 200, None


def _block_cursor(board: Board, request: Request) -> Reply:
    return 200, {"block_height": board.block_cursor()}


def _tee_challenge(board: Board, request: Request) -> Reply:
    return 200, {"challenge": board.challenge()}


def _register_tee(board: Board, request: Request) -> Reply:
    asked = request.document(("public_key", "challenge", "signature"))
    status, session_id = board.register(asked["public_key"], asked["challenge"])
    return status, {"session_id": session_id} if status == 200 else None


@dataclass(frozen=True)
class Route:
    """One call: `*` in its path stands for one segment, whatever it holds."""

    method: str
    path: tuple[str, ...]
    answer: Callable[[Board, Request], Reply]

    @property
    def name(self) -> str:
        """The call's name, for counts and faults."""
        return self.answer.__name__.removeprefix("_")

    def matches(self, method: str, path: Sequence[str]) -> bool:
        """Whether this route answers that path."""
        if method != self.method or len(path) != len(self.path):
            return False
        return all(mine in ("*", part) for part, mine in zip(path, self.path, strict=True))


ROUTES = (
    Route("GET", ("health",), _health),
    Route("GET", ("tasks", "poll"), _tasks_poll),
    Route("POST", ("tasks", "create"), _tasks_create),
    Route("POST", ("tasks", "complete"), _tasks_complete),
    Route("POST", ("tasks", "fail"), _tasks_fail),
    Route("GET", ("wasm", "exists", "*"), _wasm_exists),
    Route("GET", ("wasm", "*"), _wasm_download),
    Route("POST", ("wasm", "upload"), _wasm_upload),
    Route("POST", ("locks", "acquire"), _locks_acquire),
    Route("DELETE", ("locks", "release", "*"), _locks_release),
    Route("GET", ("executions", "poll"), _executions_poll),
    Route("POST", ("executions", "create"), _executions_create),
    Route("POST", ("jobs", "claim"), _jobs_claim),
    Route("POST", ("jobs", "complete"), _jobs_complete),
    Route("POST", ("workers", "heartbeat"), _heartbeat),
    Route("GET", ("workers", "block-cursor"), _block_cursor),
    Route("POST", ("workers", "tee-challenge"), _tee_challenge),
    Route("POST", ("workers", "register-tee"), _register_tee),
)


def _patience(request: Request) -> float:
    asked = request.query.get("timeout", str(_DEFAULT_POLL_SECONDS))
    if not (asked.isascii() and asked.isdigit()):
        raise HttpError(400, "Failed to deserialize query string")
    return float(min(int(asked), _LONGEST_POLL_SECONDS))


def _check_bytes(value: Any) -> None:
    if not isinstance(value, list) or any(type(each) is not int or not 0 <= each < 256 for each in value):
        raise HttpError(422, "output: expected u8")
