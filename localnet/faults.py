"""What can go wrong between a client and a stand-in's HTTP server, on request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EVERY_CALL = "*"

INSTEAD_OF_AN_ANSWER = ("status", "hang", "reset", "malformed", "other_json", "endless", "gzip_bomb")
HTTP_FAULTS = (*INSTEAD_OF_AN_ANSWER, "lost_reply", "slow", "cut")


@dataclass
class Fault:
    """One fault, for the next `times` calls of a method.

    `status` answers that HTTP status · `hang` never answers within `seconds`, then closes · `reset` resets the
    connection before the call is looked at · `malformed` answers half a JSON document · `other_json` answers JSON
    that is not what was asked for · `endless` begins a JSON string and never ends it · `gzip_bomb` answers a gigabyte
    of zeros in about a megabyte · `lost_reply` carries the call out and then resets the connection · `slow` answers
    rightly, `seconds` late · `cut` announces the whole answer and closes the connection after half of it.
    """

    times: int
    kind: str = "status"
    status: int = 503
    seconds: float = 30.0
    retry_after_seconds: int | None = None


class Faults:
    """The faults that wait for their calls, by method; `*` stands for every method.

    Arguments: `kinds` are the faults that this stand-in knows.
    """

    def __init__(self, kinds: Iterable[str] = HTTP_FAULTS) -> None:
        self._kinds = tuple(kinds)
        self._waiting: dict[str, list[Fault]] = {}

    def add(self, method: str, fault: Fault) -> None:
        """Put the fault behind those that already wait for that method."""
        if fault.kind not in self._kinds:
            raise ValueError(f"no fault is called {fault.kind!r}; known: {', '.join(self._kinds)}")
        self._waiting.setdefault(method, []).append(fault)

    def take(self, method: str) -> Fault | None:
        """The fault that this call meets, used up by one; None if none waits."""
        for name in (method, EVERY_CALL):
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
