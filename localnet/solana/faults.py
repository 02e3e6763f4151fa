"""What can go wrong between a client and its RPC node, on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

FaultKind = Literal["status", "hang", "reset", "lost_reply", "malformed", "slow", "unhealthy", "endless", "gzip_bomb"]
EVERY_METHOD = "*"


@dataclass
class Fault:
    """One fault, for the next `times` calls of a method.

    `status` answers that HTTP status · `hang` never answers within `seconds`, then closes · `reset` resets the
    connection before the call is looked at · `lost_reply` carries the call out and then resets the connection ·
    `malformed` answers half a JSON document · `slow` answers rightly, `seconds` late · `unhealthy` is the
    JSON-RPC error -32005 · `endless` begins a JSON string and never ends it · `gzip_bomb` answers a gigabyte of zeros
    in about a megabyte.
    """

    times: int
    kind: FaultKind = "status"
    status: int = 503
    seconds: float = 30.0
    retry_after_seconds: int | None = None


class Faults:
    """The faults that wait for their calls, by method; `*` stands for every method."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Fault]] = {}

    def add(self, method: str, fault: Fault) -> None:
        """Put the fault behind those that already wait for that method."""
        if fault.kind not in get_args(FaultKind):
            raise ValueError(f"no fault is called {fault.kind!r}; known: {', '.join(get_args(FaultKind))}")
        self._waiting.setdefault(method, []).append(fault)

    def take(self, method: str) -> Fault | None:
        """The fault that this call meets, used up by one; None if none waits."""
        for name in (method, EVERY_METHOD):
            waiting = self._waiting.get(name, [])
            while waiting:
                fault = waiting[0]
                if fault.times <= 0:
                    waiting.pop(0)
                    continue
                fault.times -= 1
                return fault
        return None

    def clear(self) -> None:
        """Forget every fault that still waits."""
        self._waiting.clear()
