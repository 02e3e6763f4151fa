"""EARLY's way to resolve a request: by data id, with the output as a list of numbers.

`success: false` makes the contract's callback panic: the error is logged, and everything else is rolled back. The
request stays pending and the deposit in the contract until its sender cancels it, 600 s after it was made.
"""

from __future__ import annotations

from typing import Any

from protocols.near.contract import RESUME_LIMIT_BYTES, ExecutionRequest, Resolution, compact, with_error_cut
from protocols.near.transactions import MOST_GAS, FunctionCall

EVENT_STANDARD = "near-offshore"


def resolve_calls(request: ExecutionRequest, resolution: Resolution) -> tuple[FunctionCall, ...]:
    """The calls that resolve a request: one. An error's text is cut to what fits.

    Raises OutputTooLarge if the output does not fit: some 230 bytes do, if they are large numbers.
    """
    args = {"data_id": list(bytes.fromhex(request.data_id)), "response": response_of(resolution)}
    return (FunctionCall("resolve_execution", compact(args), MOST_GAS),)


def fits(resolution: Resolution) -> bool:
    """Whether the output, if there is one, can be in the response."""
    return len(compact({**_response(resolution), "error": None})) <= RESUME_LIMIT_BYTES


def response_of(resolution: Resolution) -> dict[str, Any]:
    """The response as the contract reads it and, written again by the contract, resumes with. Raises OutputTooLarge."""
    return with_error_cut(_response(resolution), RESUME_LIMIT_BYTES)


def _response(resolution: Resolution) -> dict[str, Any]:
    used = resolution.resources_used
    return {
        "success": resolution.success,
        "return_value": None if resolution.output is None else list(resolution.output),
        "error": resolution.error,
        "resources_used": {"instructions": used.instructions, "time_ms": used.time_ms},
    }
