"""Errors that a node answers with, by their real numbers and words (agave, `rpc-client-api/src/custom_error.rs`)."""

from __future__ import annotations

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
PREFLIGHT_FAILURE = -32002
SIGNATURE_VERIFICATION_FAILURE = -32003
NODE_UNHEALTHY = -32005
MIN_CONTEXT_SLOT_NOT_REACHED = -32016


class RpcError(Exception):
    """The node's answer is a JSON-RPC error."""

    def __init__(self, code: int, message: str, extra: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra

    def as_json(self) -> dict[str, Any]:
        """The `error` member of the response."""
        error = {"code": self.code, "message": self.message}
        return error if self.extra is None else {**error, "data": self.extra}


def invalid(message: str) -> RpcError:
    """Error -32602, for a parameter that is not what the method takes."""
    return RpcError(INVALID_PARAMS, message)
