"""What both dialects of the contract keep and check."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from localnet.near.environment import ContractError, Environment, panic
from protocols.near.keys import hash_bytes

STALE_NANOSECONDS = 600 * 1_000_000_000


@dataclass
class Pending:
    """A request that waits. `source` and `limits` are as they are written to JSON."""

    request_id: int
    data_id: str
    sender_id: str
    source: Any
    limits: dict[str, Any]
    payment_yocto: int
    timestamp_ns: int
    input_data: str | None
    response_format: str = "Text"
    payer_id: str = ""
    secrets_ref: Any = None
    stored_output: Any = None
    original_source: Any = None


@dataclass
class State:
    """The contract's data."""

    owner_id: str
    operator_id: str
    paused: bool = False
    next_request_id: int = 0
    executions: int = 0
    fees_yocto: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)
    projects: dict[str, Any] = field(default_factory=dict)


def parsed(args: bytes) -> dict[str, Any]:
    """Arguments. Raises ContractError."""
    try:
        document = json.loads(args)
    except (ValueError, RecursionError) as error:
        raise bad_input(str(error)) from None
    if not isinstance(document, dict):
        raise bad_input("expected an object")
    return document


def bad_input(problem: str) -> ContractError:
    """What the contract says of arguments it cannot read."""
    return panic(f'Failed to deserialize input from JSON.: Error("{problem}", line: 1, column: 1)')


def number(document: Any, name: str, bits: int = 64, *, optional: bool = False) -> Any:
    """The unsigned member `name`. Raises ContractError."""
    value = document.get(name) if isinstance(document, dict) else None
    if value is None and optional:
        return None
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise bad_input(f"invalid value for `{name}`, expected u{bits}")
    return value


def text(document: Any, name: str, *, optional: bool = False) -> Any:
    """The member `name`, a string. Raises ContractError."""
    value = document.get(name) if isinstance(document, dict) else None
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise bad_input(f"invalid type for `{name}`, expected a string")
    return value


def limits_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The limits in arguments: each may be null, and stays so. None if there are none. Raises ContractError."""
    limits = document.get("resource_limits")
    if limits is None:
        return None
    return {
        "max_instructions": number(limits, "max_instructions", optional=True),
        "max_memory_mb": number(limits, "max_memory_mb", 32, optional=True),
        "max_execution_seconds": number(limits, "max_execution_seconds", optional=True),
    }


DEFAULT_LIMITS = {"max_instructions": 1_000_000_000, "max_memory_mb": 128, "max_execution_seconds": 60}


def data_id_numbers(data_id: str) -> list[int]:
    """A data id as the contract's JSON has it."""
    return list(hash_bytes(data_id))


def to_json(value: Any) -> bytes:
    """As the contract writes JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def estimate(prices: tuple[int, ...], limits: dict[str, Any]) -> int:
    """What a request with these limits costs at most; a limit that is null counts as nothing."""
    millions = (limits["max_instructions"] or 0) // 1_000_000
    return prices[0] + millions * prices[1] + (limits["max_execution_seconds"] or 0) * 1000 * prices[2]


def check_caps(limits: dict[str, Any], most_instructions: int, most_seconds: int) -> None:
    """Raises ContractError for limits beyond the contract's own."""
    if (limits["max_instructions"] or 0) > most_instructions:
        asked = limits["max_instructions"]
        raise panic(f"Requested max_instructions {asked} exceeds hard limit of {most_instructions}")
    if (limits["max_execution_seconds"] or 0) > most_seconds:
        asked = limits["max_execution_seconds"]
        raise panic(f"Requested max_execution_seconds {asked} exceeds hard limit of {most_seconds} seconds")


def check_payment(env: Environment, needed: int) -> None:
    """Raises ContractError if the deposit is too small."""
    if env.deposit_yocto < needed:
        raise panic(f"Insufficient payment: required {needed} yoctoNEAR, got {env.deposit_yocto} yoctoNEAR")


def check_operator(state: State, env: Environment) -> None:
    """Raises ContractError if somebody else calls."""
    if env.predecessor_id != state.operator_id:
        raise panic("Only operator can call this method")


def cancel_stale(state: State, args: dict[str, Any], env: Environment) -> bytes:
    """Give a request's deposit back to its sender, 600 s after it was made. Raises ContractError."""
    request = state.pending.get(number(args, "request_id"))
    if request is None:
        raise panic("Execution request not found")
    if request.sender_id != env.predecessor_id:
        raise panic("Only the sender can cancel this execution")
    if env.timestamp_ns <= request.timestamp_ns + STALE_NANOSECONDS:
        raise panic("Execution is not stale yet")
    del state.pending[request.request_id]
    env.transfer(request.sender_id, request.payment_yocto)
    return b""
