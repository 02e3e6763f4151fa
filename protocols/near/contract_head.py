"""HEAD's way to resolve a request: by request id, large outputs by way of the contract's storage.

`success: false` is no panic here: the callback returns null, refunds all but the base fee and removes the request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from millrace.errors import Permanent
from protocols.near.contract import (
    RESUME_LIMIT_BYTES,
    ExecutionRequest,
    OutputTooLarge,
    Resolution,
    compact,
    with_error_cut,
    writable,
)
from protocols.near.transactions import MOST_GAS, TERAGAS, FunctionCall

EVENT_STANDARD = "near-outlayer"

MOST_ARGS_BYTES = 1_400_000
"""Of one call, below the chain's 1.5 MiB for a whole transaction."""

_SMALL_BYTES = RESUME_LIMIT_BYTES - 1
"""Longest response that is sent in one piece: the public worker turns to storage at 1,024 bytes."""

_MOST_NESTED = 120
"""Levels of an output: the contract's parser ends at 128, those around the output counted."""

_LONGEST_NUMBER = "-1.7976931348623157e+308"
"""What the contract reads as a double, it may write with as many characters: 1e-05 becomes 0.00001."""

_STORE_GAS = 100 * TERAGAS
_CHARGED = re.compile(r'\[\[yNEAR charged: "(\d{1,39})"\]\]')


class OutputNotJson(Permanent):
    """The request wants JSON, and the module wrote something else."""


def resolve_calls(request: ExecutionRequest, resolution: Resolution) -> tuple[FunctionCall, ...]:
    """The calls that resolve a request, to be made in one transaction. An error's text is cut to what fits.

    A response of 1,024 bytes or more has its output stored first: in one call with the resolution, or, where there is
    `refund_usd`, which that call drops, in one of its own before it.
    Raises OutputTooLarge if not even a transaction can hold it; OutputNotJson for a request that wants JSON.
    """
    output = output_of(resolution.output, request.response_format)
    response = _response(resolution, output)
    if output is None or _written_bytes(response) <= _SMALL_BYTES:
        whole = with_error_cut(response, _SMALL_BYTES)
        return (_call("resolve_execution", {"request_id": request.request_id, "response": whole}, MOST_GAS),)
    stored = with_error_cut({**response, "output": None}, _SMALL_BYTES)
    if resolution.refund_usd is None:
        parts = ("success", "error", "resources_used", "compilation_note")
        args = {"request_id": request.request_id, "output": output, **{name: stored[name] for name in parts}}
        return (_call("submit_execution_output_and_resolve", args, MOST_GAS),)
    return (
        _call("submit_execution_output", {"request_id": request.request_id, "output": output}, _STORE_GAS),
        _call("resolve_execution", {"request_id": request.request_id, "response": stored}, MOST_GAS - _STORE_GAS),
    )


def output_of(output: bytes | None, response_format: str) -> dict[str, Any] | None:
    """The output in the request's format, tagged with it.

    Raises OutputNotJson; and as well for text that is not UTF-8, which the contract could only garble.
    """
    if output is None:
        return None
    if response_format == "Bytes":
        return {"Bytes": list(output)}
    try:
        text = output.decode()
        if response_format == "Text":
            return {"Text": text}
        return {"Json": _plain(json.loads(text, parse_constant=_refuse))}
    except (ValueError, OverflowError, RecursionError):
        raise OutputNotJson(
            f"the output is not {'UTF-8' if response_format == 'Text' else 'JSON'}",
            hint=f"the request asks for {response_format}; it is the module that has to write it",
        ) from None


def charged_yocto(logs: Sequence[str]) -> int | None:
    """What the logs of the contract's callback say that the requester was charged; None if they do not say.

    The callback runs in the requester's transaction: our own outcome never has this line.
    """
    found = [match for line in logs for match in _CHARGED.findall(line)]
    return int(found[-1]) if found else None


def _response(resolution: Resolution, output: dict[str, Any] | None) -> dict[str, Any]:
    used = resolution.resources_used
    note = resolution.compilation_note
    return {
        "success": resolution.success,
        "output": output,
        "error": None if resolution.error is None else writable(resolution.error),
        "resources_used": {
            "instructions": used.instructions,
            "time_ms": used.time_ms,
            "compile_time_ms": used.compile_time_ms,
        },
        "compilation_note": None if note is None else writable(note),
        # Even where there is none: the contract writes it out before it resumes with it.
        "refund_usd": resolution.refund_usd,
    }


def _call(method: str, args: dict[str, Any], gas: int) -> FunctionCall:
    packed = compact(args)
    if len(packed) > MOST_ARGS_BYTES:
        raise OutputTooLarge(
            f"the call takes {len(packed)} bytes, and a transaction holds {MOST_ARGS_BYTES}",
            hint="answer with a CID, or with less",
        )
    return FunctionCall(method, packed, gas)


def _plain(value: Any) -> Any:
    """The value if the contract can read it.

    Raises ValueError for half a surrogate pair, 1e400 or a deep nesting, OverflowError for 1e400 written with all its
    zeros: the contract's parser refuses that as well.
    """
    compact(value)
    if not _is_shallow(value, _MOST_NESTED):
        raise ValueError("it is nested too deeply")
    _with_longest_numbers(value)
    return value


def _written_bytes(response: dict[str, Any]) -> int:
    """The most that the contract writes for a response when it resumes with it."""
    return len(compact(_with_longest_numbers(response)))


def _with_longest_numbers(value: Any) -> Any:
    """The value with a text as long as any number in place of each that the contract keeps as a double."""
    if isinstance(value, dict):
        return {name: _with_longest_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_longest_numbers(part) for part in value]
    if isinstance(value, float) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        float(value)  # raises for one that no double holds, which the contract's parser refuses
        return "0" * (len(_LONGEST_NUMBER) - len('""'))
    return value


def _is_shallow(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
