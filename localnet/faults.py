"""What can go wrong between a client and a stand-in's HTTP server, on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

EVERY_CALL = "*"

INSTEAD_OF_AN_ANSWER = ("status", "hang", "reset", "malformed", "other_json", "endless", "gzip_bomb")
HTTP_FAULTS = (*INSTEAD_OF_AN_ANSWER, "lost_reply", "slow", "drip", "cut")


@dataclass
class Fault:
    """One fault, for the next `times` calls of a method.

    `status` answers that HTTP status · `hang` never answers within `seconds`, then closes · `reset` resets the
    connection before the call is looked at · `malformed` answers half a JSON document · `other_json` answers JSON
    that is not what was asked for · `endless` begins a JSON string and never ends it · `gzip_bomb` answers a gigabyte
    of zeros in about a megabyte · `lost_reply` carries the call out and then resets the connection · `slow` answers
    rightly, `seconds` late · `drip` answers rightly, a few bytes at a time, over `seconds` · `cut` announces the whole
    answer and closes the connection after half of it.
    """

    times: int
    kind: str = "status"
    status: int = 503
    seconds: float = 30.0
    retry_after_seconds: int | None = None

    @property
    def name(self) -> str:
        """Under which it is counted: its kind, or the HTTP status that it answers."""
        return str(self.status) if self.kind == "status" else self.kind


class Faults:
    """The faults that wait for their calls, by method; `*` stands for every method.

    Arguments: `kinds` are the faults that this stand-in knows. `served` counts the faults that were met, by their name,
    and what else went wrong on request, by the stand-in's own name for it: who injects a fault asks it whether anybody
    met it.
    """

    def __init__(self, kinds: Iterable[str] = HTTP_FAULTS) -> None:
        self._kinds = tuple(kinds)
        self._waiting: dict[str, list[Fault]] = {}
        self.served: Counter[str] = Counter()

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
                self.served[fault.name] += 1
                return fault
        return None

    def waiting(self) -> int:
        """How many calls are still to meet a fault."""
        return sum(fault.times for faults in self._waiting.values() for fault in faults)

    def note(self, name: str, times: int = 1) -> None:
        """Count what the stand-in itself did wrong on request."""
        if times:
            self.served[name] += times

    def clear(self) -> None:
        """Forget every fault that still waits; what was served stays counted."""
        self._waiting.clear()
