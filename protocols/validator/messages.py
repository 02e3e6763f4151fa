"""What a PoC validator and a worker say to each other: one JSON object a message, over a WebSocket or over HTTP.

The validator says `{"type":"job","job_id","task_id","payload"}`, the worker answers
`{"type":"job_result","job_id","worker_address","result_hash","proof"}`. The network's documents name nothing else and
leave the payload open. Ours is `{"kind","block_hash","n"}`, and a job that cannot be done gets
`{"type":"job_refused","job_id","worker_address","reason","message"}`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from millrace.errors import DeclineReason
from millrace.text import faults_in, printable

MOST_BYTES = 1 << 20
"""Of one message in either direction; jobs are some hundred bytes."""

MOST_PAYLOAD_BYTES = 65_536
DEEPEST_PAYLOAD = 32
MOST_MESSAGES = 1_000
"""In one frame."""

MALFORMED = "malformed"
FAILED = "failed"
BUSY = "busy"
"""Why a job is refused, beside the reasons of `millrace.errors.DeclineReason`."""

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
"""Ids become part of keys and of log lines."""


class JobMessage(BaseModel):
    """The validator wants something done. What `payload` holds is looked at when the job is admitted."""

    model_config = ConfigDict(frozen=True)

    type: Literal["job"]
    job_id: _Id
    task_id: _Id | None = None
    payload: dict[str, Any]


class JobResult(BaseModel):
    """The answer: `result_hash` in hex, and what a verifier needs beside it, as compact JSON."""

    model_config = ConfigDict(frozen=True)

    type: Literal["job_result"] = "job_result"
    job_id: str
    worker_address: str
    result_hash: str
    proof: str | None = None


class JobRefused(BaseModel):
    """There will be no answer: `reason` for a program, `message` for a person."""

    model_config = ConfigDict(frozen=True)

    type: Literal["job_refused"] = "job_refused"
    job_id: str
    worker_address: str
    reason: DeclineReason | Literal["malformed", "failed", "busy"]
    message: str


class Malformed(BaseModel):
    """A message that says it is a job and cannot be one; `job_id` is empty if not even that can be read."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    fault: str


class Unknown(BaseModel):
    """A message of a kind that this worker does not know; `told` says what it looks like, fit to be printed."""

    model_config = ConfigDict(frozen=True)

    told: str


Incoming = JobMessage | Malformed | Unknown


def incoming(raw: str | bytes) -> list[Incoming]:
    """The messages in one frame or one HTTP body: an object, or a list of them. Never raises."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return [Unknown(told=f"no JSON: {_shown(raw)}")]
    documents = document if isinstance(document, list) else [document]
    found = [_message(each, raw) for each in documents[:MOST_MESSAGES]]
    if len(documents) > MOST_MESSAGES:
        found.append(Unknown(told=f"{len(documents)} messages in one frame, of which {MOST_MESSAGES} were read"))
    return found


def _message(document: Any, raw: str | bytes) -> Incoming:
    if not isinstance(document, dict) or document.get("type") != "job":
        return Unknown(told=_shown(raw))
    try:
        message = JobMessage.model_validate(document)
        fault = _fault_of(message.payload)
    except ValidationError as error:
        fault = faults_in(error)
    if fault:
        return Malformed(job_id=_readable_id(document.get("job_id")), fault=_plain(fault, 300))
    return message


def _fault_of(payload: dict[str, Any]) -> str:
    """Why this payload cannot be kept; empty if it can."""
    if _deeper_than(DEEPEST_PAYLOAD, payload):
        return f"payload: nested more than {DEEPEST_PAYLOAD} deep"
    try:
        size = len(json.dumps(payload, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        return "payload: a text that is no Unicode"
    except ValueError:
        return "payload: a number that is none, or too large"  # it would come back from the disk as null
    return f"payload: {size} bytes, more than {MOST_PAYLOAD_BYTES}" if size > MOST_PAYLOAD_BYTES else ""


def _deeper_than(depth: int, value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _deeper_than(depth - 1, each) for each in inner)


def _readable_id(value: Any) -> str:
    """An id that a refusal can name, although the job cannot be kept under it."""
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable() else ""


def _shown(raw: str | bytes) -> str:
    text = raw if isinstance(raw, str) else raw[:400].decode(errors="replace")
    return _plain(text[:400], 200)


def _plain(text: str, longest: int) -> str:
    """`text` fit for a terminal and for UTF-8."""
    return printable(text.encode(errors="replace").decode(), longest)


class MatmulTask(BaseModel):
    """The payload of a task that is a challenge; `n` is the side of the matrices."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(validation_alias=AliasChoices("kind", "algorithm"))
    block_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    n: int = Field(ge=1, strict=True, validation_alias=AliasChoices("n", "size"))


def kind_of(payload: dict[str, Any]) -> str:
    """What a payload calls its task; empty if it does not say."""
    kind = payload.get("kind", payload.get("algorithm", ""))
    return kind if isinstance(kind, str) else ""
