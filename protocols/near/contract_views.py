"""What the contract says when it is asked: a request's state, prices, limits, who may resolve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from millrace.errors import Permanent
from millrace.text import printable
from protocols.near import contract_early, contract_head
from protocols.near.answers import U64, Part, Yocto
from protocols.near.contract import (
    YIELD_TIMEOUT_BLOCKS,
    Dialect,
    ExecutionRequest,
    Resolution,
    ResourceLimits,
    Source,
    tagged_source,
)
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import NodeBusy
from protocols.near.transactions import FunctionCall

T = TypeVar("T")

UNABLE_TO_RESUME = "Unable to resume execution promise"
"""The contract's words when the chain does not let it resume: too early, too late, or done already."""

EARLY_BLOCKS = 10
"""How many blocks after a request a resume can have come too early at most. In the block of the request the chain does
not find what is to be resumed (nearcore PR #14926); a few more are for receipts that arrive together or are held up."""

CALLBACK_BLOCKS = 4
"""How many blocks after a resume the contract's callback has run, and HEAD has the request no more."""


class NotTheContract(Permanent):
    """What is asked does not answer like the OffchainVM / OutLayer contract."""


class StoredRequest(Part):
    """A request as the contract keeps it while it is pending. `sender_id` is who called, in both dialects."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    request_id: U64
    sender_id: str
    payment_yocto: Yocto = Field(validation_alias="payment")
    timestamp_ns: U64 = Field(validation_alias="timestamp")
    resource_limits: ResourceLimits = ResourceLimits()
    code_source: Annotated[Source | None, BeforeValidator(tagged_source)] = None
    resolved_source: Annotated[Source | None, BeforeValidator(tagged_source)] = None
    input_data: str | None = None
    output_submitted: bool = False


@dataclass(frozen=True)
class Pricing:
    """What the contract charges, in yoctoNEAR; EARLY's charges nothing for compiling."""

    base_fee: int
    per_million_instructions: int
    per_ms: int
    per_compile_ms: int = 0

    def cost(self, instructions: int, time_ms: int, compile_time_ms: int = 0) -> int:
        """What a successful execution costs its requester."""
        millions = instructions // 1_000_000
        used = millions * self.per_million_instructions + time_ms * self.per_ms
        return self.base_fee + used + compile_time_ms * self.per_compile_ms


@dataclass(frozen=True)
class MaxLimits:
    """What a request may ask for at most."""

    instructions: int
    execution_seconds: int
    compilation_seconds: int | None = None


@dataclass(frozen=True)
class ContractConfig:
    """Who owns the contract, and whose account may resolve requests."""

    owner_id: str
    operator_id: str


class RefusedResume(StrEnum):
    """What "Unable to resume" means in the case at hand."""

    early = "early"  # the request is pending, and the refusal came right behind it: send again
    settled = (
        "settled"  # it has been resolved, timed out or cancelled; EARLY shows it still if it was resolved as failed
    )
    timed_out = "timed_out"  # it is pending only because nobody cancelled it: the chain will resume it no more


class Contract:
    """The contract at `contract_id`, asked through `rpc`. Methods raise as `NearRpc.call_function`; NotTheContract."""

    def __init__(self, rpc: NearRpc, contract_id: str, dialect: Dialect) -> None:
        self._rpc = rpc
        self.contract_id = contract_id
        self.dialect = dialect

    def resolve_calls(self, request: ExecutionRequest, resolution: Resolution) -> tuple[FunctionCall, ...]:
        """The calls, for one transaction, that resolve `request`; raises as the dialect's own `resolve_calls`."""
        if self.dialect is Dialect.early:
            return contract_early.resolve_calls(request, resolution)
        return contract_head.resolve_calls(request, resolution)

    async def get_request(self, request_id: int, *, since: int = 0) -> StoredRequest | None:
        """The request while it is pending; None once it is settled, and for one that never was.

        `since` is a height: nodes disagree for a while, and one that has not come so far cannot tell whether a
        request is settled or not there yet. Raises NodeBusy if such a one answers.
        """
        return await self._view("get_request", _REQUEST, {"request_id": request_id}, since)

    async def get_pricing(self) -> Pricing:
        """The prices."""
        return Pricing(*await self._view("get_pricing", _PRICES))

    async def get_max_limits(self) -> MaxLimits:
        """The limits' limits."""
        return MaxLimits(*await self._view("get_max_limits", _LIMITS))

    async def is_paused(self) -> bool:
        """Whether the contract takes no requests."""
        return await self._view("is_paused", _FLAG)

    async def get_config(self) -> ContractConfig:
        """Owner and operator."""
        return ContractConfig(*await self._view("get_config", _PAIR))

    async def estimate_cost(self, limits: ResourceLimits | None = None) -> int:
        """What a request with these limits has to pay in advance, in yoctoNEAR."""
        args = {"resource_limits": None if limits is None else limits.model_dump()}
        return await self._view("estimate_execution_cost", _YOCTO, args)

    async def input_of(self, request: ExecutionRequest) -> str | None:
        """The request's input, wherever it is; None if it was in the contract's state and the request is settled."""
        if not request.input_data_in_state:
            return request.input_data
        stored = await self.get_request(request.request_id)
        return None if stored is None else stored.input_data or ""

    async def after_refused_resume(self, request_id: int, requested_at: int, refused_at: int) -> RefusedResume:
        """What it means that the contract was "unable to resume" a request; the heights are where each receipt ran.

        The three cases look alike in the receipt, and the contract's word alone does not tell them apart either. EARLY
        keeps a request that was resolved as failed, as if it were pending: there a refusal that did not come right
        behind the request cannot be an early one. HEAD lets every request go that was resolved, a few blocks later.

        Raises NodeBusy if the node has not come to `refused_at`, or too little further to say.
        """
        # The height first: seen later, a request that is still pending could look younger than it is.
        head = (await self._rpc.block()).header.height
        if await self.get_request(request_id, since=max(head, refused_at)) is None:
            return RefusedResume.settled
        if head - requested_at > YIELD_TIMEOUT_BLOCKS:
            return RefusedResume.timed_out
        if self.dialect is Dialect.early:
            return RefusedResume.early if refused_at - requested_at <= EARLY_BLOCKS else RefusedResume.settled
        if head - refused_at < CALLBACK_BLOCKS:
            raise NodeBusy(f"the callback of request {request_id} may have to run yet")
        return RefusedResume.early

    async def _view(self, method: str, kind: TypeAdapter[T], args: dict[str, Any] | None = None, since: int = 0) -> T:
        found = await self._rpc.call_function(self.contract_id, method, args)
        if found.block_height < since:
            raise NodeBusy(f"a node answers {method} as of block {found.block_height}, before {since}")
        try:
            return kind.validate_python(json.loads(found.result))
        except (ValidationError, ValueError, RecursionError):
            shown = printable(found.result[:200].decode(errors="replace"), 200)
            raise NotTheContract(
                f"{printable(self.contract_id, 70)} answers {method} with {shown}",
                hint="is OFFCHAINVM_CONTRACT_ID the contract's account?",
            ) from None


async def dialect_of(rpc: NearRpc, contract_id: str) -> Dialect:
    """The contract's dialect, told by whether it has a price for compiling. Raises as `Contract`'s methods.

    Contracts of the weeks between the two are taken for EARLY; they are resolved by request id, as HEAD.
    """
    pricing = await Contract(rpc, contract_id, Dialect.early)._view("get_pricing", _PRICES)
    return Dialect.head if len(pricing) == 4 else Dialect.early


_REQUEST: TypeAdapter[StoredRequest | None] = TypeAdapter(StoredRequest | None)
_PRICES: TypeAdapter[tuple[Yocto, Yocto, Yocto] | tuple[Yocto, Yocto, Yocto, Yocto]] = TypeAdapter(
    tuple[Yocto, Yocto, Yocto] | tuple[Yocto, Yocto, Yocto, Yocto]
)
_LIMITS: TypeAdapter[tuple[U64, U64] | tuple[U64, U64, U64]] = TypeAdapter(tuple[U64, U64] | tuple[U64, U64, U64])
_PAIR: TypeAdapter[tuple[str, str]] = TypeAdapter(tuple[str, str])
_FLAG: TypeAdapter[bool] = TypeAdapter(bool)
_YOCTO: TypeAdapter[Yocto] = TypeAdapter(Yocto)
