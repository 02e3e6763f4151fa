"""The EARLY API's tasks: what it gives out, read with care, since a task that was given out is gone from its queue."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from millrace.errors import Permanent
from protocols.coordinator.link import faults_of
from protocols.near.answers import U64, Yocto
from protocols.near.contract import ExecutionRequest, GitHubSource, ResourceLimits, Source, compact, tagged_source

T = TypeVar("T")

Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""What a module is kept under: a key made of repository, commit and target, not a hash of its bytes."""

DataId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Limits = Annotated[ResourceLimits, BeforeValidator(lambda value: {} if value is None else value)]
StrictU64 = Annotated[U64, Field(strict=True)]


class MalformedTask(Permanent):
    """What a coordinator gave out as work cannot be done.

    `request_id` and `data_id` are as much of it as can be read, None otherwise: with them the failure can be told.
    """

    def __init__(self, message: str, *, request_id: int | None = None, data_id: str | None = None) -> None:
        super().__init__(message, hint="the coordinator has forgotten it: its request will time out on the chain")
        self.request_id = request_id
        self.data_id = data_id


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True)

    request_id: StrictU64
    data_id: DataId
    resource_limits: Limits = ResourceLimits()


class CompileTask(_Task):
    """Compile a repository, execute the module and resolve the request: the only kind that is ever created."""

    type: Literal["Compile"] = "Compile"
    code_source: Annotated[Source, BeforeValidator(tagged_source)]
    input_data: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]

    @field_validator("code_source")
    @classmethod
    def _is_a_repository(cls, source: Source) -> Source:
        if not isinstance(source, GitHubSource):
            raise ValueError("a task of this API is compiled from a repository")
        return source

    def contract_request(self, *, sender_id: str, payment_yocto: Yocto, timestamp_ns: U64) -> ExecutionRequest:
        """The request as the contract's event has it; the task does not say who asks, what is paid, and when."""
        return ExecutionRequest(
            request_id=self.request_id,
            data_id=self.data_id,
            sender_id=sender_id,
            code_source=self.code_source,
            resource_limits=self.resource_limits,
            input_data=self.input_data,
            payment_yocto=payment_yocto,
            timestamp_ns=timestamp_ns,
        )


class ExecuteTask(_Task):
    """Execute a module that the coordinator has. `input_data` is None if it was left out: ask the contract for it."""

    type: Literal["Execute"] = "Execute"
    wasm_checksum: Checksum
    input_data: str | None = None


Task = CompileTask | ExecuteTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="type")])


def task_of(document: Any) -> Task:
    """The task that a coordinator gave out. Raises MalformedTask, which names every member that is wrong."""
    return checked(_TASK, document, "task")


def checked(adapter: TypeAdapter[T], document: Any, kind: str) -> T:
    """The document as what `adapter` reads. Raises MalformedTask."""
    try:
        # Half a surrogate pair could be read, and then never persisted or sent.
        compact(document)
        found = adapter.validate_python(document)
        # And so could what is nested more deeply than pydantic writes.
        adapter.dump_json(found)
        return found
    except ValidationError as error:
        told = faults_of(error)
    except (ValueError, RecursionError):
        told = "it holds what JSON or UTF-8 has no place for, or is nested too deeply"
    fields = document if isinstance(document, dict) else {}
    request_id, data_id = fields.get("request_id"), fields.get("data_id")
    known = request_id if type(request_id) is int and 0 <= request_id < 1 << 64 else None
    name = "a" if known is None else f"request {known}: a"
    raise MalformedTask(
        f"{name} malformed {kind}: {told}",
        request_id=known,
        data_id=data_id if isinstance(data_id, str) and _is_hex_of_32(data_id) else None,
    )


def _is_hex_of_32(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def wire_source(source: Source) -> dict[str, Any]:
    """A code source as coordinators write it: its kind under `type`."""
    fields = source.model_dump(mode="json")
    return {"type": fields.pop("kind"), **fields}
