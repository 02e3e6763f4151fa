"""The RPC's errors, in nearcore's form."""

from __future__ import annotations

from typing import Any


class RpcFault(Exception):
    """A JSON-RPC error; `name` is the cause's."""

    def __init__(self, name: str, info: Any = None, data: Any = None, *, validation: bool = False) -> None:
        super().__init__(name)
        self.name = name
        self.info = {} if info is None else info
        self.data = name if data is None else data
        self.validation = validation

    @property
    def http_status(self) -> int:
        """What nearcore answers beside it."""
        if self.validation:
            return 400
        return {"TIMEOUT_ERROR": 408, "INTERNAL_ERROR": 500}.get(self.name, 200)

    def body(self) -> dict[str, Any]:
        """The JSON-RPC error object."""
        kind = "REQUEST_VALIDATION_ERROR" if self.validation else "HANDLER_ERROR"
        code = {"METHOD_NOT_FOUND": -32601, "PARSE_ERROR": -32700}.get(self.name, -32000)
        message = {-32601: "Method not found", -32700: "Parse error"}.get(code, "Server error")
        cause = {"name": self.name, "info": self.info}
        return {"name": kind, "cause": cause, "code": code, "message": message, "data": self.data}


def parse_error(problem: str) -> RpcFault:
    """What a node says of parameters that it cannot read."""
    return RpcFault("PARSE_ERROR", {"error_message": problem}, problem, validation=True)
