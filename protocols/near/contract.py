"""What both dialects of the OffchainVM / OutLayer contract share: requests, their sources and limits, resolutions.

EARLY is the dialect of October 2025, HEAD today's; see `contract_early` and `contract_head`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from millrace.errors import Permanent
from protocols.near.answers import U64, Yocto

RESUME_LIMIT_BYTES = 1024
"""Of what a contract may resume a yielded promise with: a protocol limit, and so one of a response as JSON."""

YIELD_TIMEOUT_BLOCKS = 200
"""After which the chain itself ends a yielded promise with a failure."""

DEFAULT_INSTRUCTIONS = 1_000_000_000
DEFAULT_MEMORY_MB = 128
DEFAULT_SECONDS = 60


class Dialect(StrEnum):
    """Which contract it is: they differ in how they are asked and answered, and in what a failure does."""

    early = "early"
    head = "head"


class OutputTooLarge(Permanent):
    """What was computed does not fit into the contract's answer."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


def _or(default: int) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


class ResourceLimits(_Frozen):
    """What a request may use. A limit that is not given, or is null, is the contract's default."""

    max_instructions: Annotated[U64, _or(DEFAULT_INSTRUCTIONS)] = DEFAULT_INSTRUCTIONS
    max_memory_mb: Annotated[int, _or(DEFAULT_MEMORY_MB), Field(ge=0, lt=1 << 32)] = DEFAULT_MEMORY_MB
    max_execution_seconds: Annotated[U64, _or(DEFAULT_SECONDS)] = DEFAULT_SECONDS


class GitHubSource(_Frozen):
    """A repository at a commit, to be compiled."""

    kind: Literal["GitHub"] = "GitHub"
    repo: str
    commit: str
    build_target: str | None = None


class WasmUrlSource(_Frozen):
    """A compiled module behind a URL; `hash` is its SHA-256 in hex."""

    kind: Literal["WasmUrl"] = "WasmUrl"
    url: str
    hash: str
    build_target: str | None = None


class ProjectSource(_Frozen):
    """A registered project; events name what it resolves to instead."""

    kind: Literal["Project"] = "Project"
    project_id: str
    version_key: str | None = None


Source = Annotated[GitHubSource | WasmUrlSource | ProjectSource, Field(discriminator="kind")]
_KINDS = ("GitHub", "WasmUrl", "Project")


def tagged_source(value: Any) -> Any:
    """A code source in any of its three forms, for `Source` to read.

    EARLY's is a bare repository, HEAD's contract has `{"GitHub": {...}}`, the coordinator `{"type": "GitHub", ...}`.
    """
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, content),) = value.items()
        if name in _KINDS and isinstance(content, dict):
            return {**content, "kind": name}
    if value.get("type") in _KINDS:
        return {**{name: part for name, part in value.items() if name != "type"}, "kind": value["type"]}
    return value if "kind" in value else {**value, "kind": "GitHub"}


class SecretsRef(_Frozen):
    """Secrets of somebody, by name."""

    profile: str
    account_id: str


class ExecutionRequest(_Frozen):
    """What somebody wants executed, as the contract's event tells it.

    `sender_id` is who called (EARLY) or who signed (HEAD), `predecessor_id` who called (HEAD). `input_data` is empty
    while `input_data_in_state`: then `get_request` has it. `data_id` is 32 bytes in hex.
    """

    request_id: U64
    data_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    sender_id: str
    code_source: Annotated[Source, BeforeValidator(tagged_source)]
    resource_limits: ResourceLimits = ResourceLimits()
    input_data: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)] = ""
    input_data_in_state: bool = False
    payment_yocto: Yocto = Field(validation_alias="payment")
    timestamp_ns: U64 = Field(validation_alias="timestamp")
    predecessor_id: str | None = None
    response_format: Literal["Bytes", "Text", "Json"] = "Text"
    secrets_ref: SecretsRef | None = None
    compile_only: bool = False
    force_rebuild: bool = False
    store_on_fastfs: bool = False
    use_bound_identity: bool = False
    project_uuid: str | None = None
    project_id: str | None = None
    attached_usd: Yocto | None = None

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_defaults(cls, value: Any) -> Any:
        # Only members with a default may be null; the others are then missing, and said to be.
        return {name: part for name, part in value.items() if part is not None} if isinstance(value, dict) else value


def data_id_hex(numbers: Any) -> str:
    """A data id given as 32 numbers, in hex. Raises ValueError."""
    if not isinstance(numbers, list) or len(numbers) != 32 or any(type(number) is not int for number in numbers):
        raise ValueError("a data id must be 32 numbers")
    return bytes(numbers).hex()


@dataclass(frozen=True)
class ResourcesUsed:
    """What an execution used; `compile_time_ms` is None if nothing was compiled for it."""

    instructions: int
    time_ms: int
    compile_time_ms: int | None = None


@dataclass(frozen=True)
class Resolution:
    """What to answer a request with: `output` if it succeeded, `error` if not.

    `output` is what the module wrote; HEAD's contract wants it in the request's `response_format`, see
    `contract_head`. `refund_usd` and `compilation_note` are HEAD's alone.
    """

    success: bool
    resources_used: ResourcesUsed
    output: bytes | None = None
    error: str | None = None
    compilation_note: str | None = None
    refund_usd: int | None = None


def compact(document: Any) -> bytes:
    """As the contract writes JSON: no spaces, nothing escaped that need not be.

    Raises ValueError for what JSON or UTF-8 cannot hold: infinity, half a surrogate pair.
    """
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def writable(text: str) -> str:
    """`text` without halves of surrogate pairs, which have no place in UTF-8."""
    return text.encode("utf-8", "replace").decode()


def cut_to_fit(text: str, room_bytes: int) -> str:
    """The longest beginning of `text` that takes at most `room_bytes` as JSON (quotes not counted).

    It ends between two characters, and with "…" if anything is missing. Empty if not even that fits.
    """
    text = writable(text)
    if _json_bytes(text) <= room_bytes:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _json_bytes(text[:middle] + "…") <= room_bytes:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…" if _json_bytes(text[:low] + "…") <= room_bytes else ""


def with_error_cut(response: dict[str, Any], most_bytes: int) -> dict[str, Any]:
    """The response, its `error` cut so that all of it takes at most `most_bytes` as JSON.

    Raises OutputTooLarge if the rest alone does not fit.
    """
    error = response.get("error")
    whole = {**response, "error": writable(error)} if isinstance(error, str) else response
    if len(compact(whole)) <= most_bytes:
        return whole
    rest = len(compact({**response, "error": ""})) if isinstance(error, str) else len(compact(response))
    if rest > most_bytes:
        raise OutputTooLarge(
            f"the response takes {len(compact(whole))} bytes, and the contract can be resumed with {most_bytes}",
            hint="answer with a CID, or with less",
        )
    assert isinstance(error, str)
    return {**response, "error": cut_to_fit(error, most_bytes - rest)}


def _json_bytes(text: str) -> int:
    return len(compact(text)) - 2
