"""What the validator has offered and what it was answered, shared by both of its doors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Desk:
    """Jobs and answers. `token` is what workers must show; `workers` are the addresses that asked over HTTP."""

    def __init__(self, token: str, *, knows_refusals: bool = True) -> None:
        self.knows_refusals = knows_refusals
        self.refusing: int | None = None
        self.swallowing = 0
        self.connections = 0
        self.workers: set[str] = set()
        self.on_offer: Callable[[], None] = lambda: None
        """Called after each `offer`."""
        self.unheard: list[str] = []
        """Why messages were refused."""
        self._token = token
        self._said: list[Any] = []
        self._heard: list[dict[str, Any]] = []
        self._changed = threading.Condition(threading.RLock())

    def status_for(self, authorization: str | None) -> int | None:
        """The HTTP status to turn a worker away with; None if it may come in."""
        if self.refusing is not None:
            return self.refusing
        return 401 if self._token and authorization != f"Bearer {self._token}" else None

    def offer(self, message: Any) -> None:
        """Say this to every worker."""
        with self._changed:
            self._said.append(message)
            self._changed.notify_all()
        self.on_offer()

    def push(self, job_id: str, payload: Any, **fields: Any) -> None:
        """Offer a job."""
        self.offer({"type": "job", "job_id": job_id, "task_id": f"task-{job_id}", "payload": payload, **fields})

    def said_since(self, count: int) -> list[Any]:
        """What was said after the first `count` messages."""
        with self._changed:
            return self._said[count:]

    def open_jobs(self) -> list[Any]:
        """The jobs without an answer, as they were offered."""
        with self._changed:
            answered = {heard["job_id"] for heard in self._heard}
            jobs = [said for said in self._said if isinstance(said, dict)]
            # An id may be anything at all: `say` says that too.
            return [job for job in jobs if not isinstance(job.get("job_id"), str) or job["job_id"] not in answered]

    def heard(self, frame: str | bytes) -> str:
        """Take a worker's message; why it is refused, empty if it is not."""
        try:
            message = json.loads(frame)
            fault = _fault(message, knows_refusals=self.knows_refusals)
        except (ValueError, RecursionError) as error:
            fault = str(error)
        with self._changed:
            if fault:
                self.unheard.append(fault)
            else:
                self._heard.append(message)
            self._changed.notify_all()
        return fault

    def answers_to(self, job_id: str) -> list[dict[str, Any]]:
        """Every answer to that job, in the order they came."""
        with self._changed:
            return [heard for heard in self._heard if heard["job_id"] == job_id]

    def wait(self, ready: Callable[[], T], timeout_seconds: float) -> T:
        """What `ready` gives, once that is something. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not (found := ready()):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("the validator waited in vain")
            return found

    def connected(self, *, more: int) -> None:
        """So many more WebSockets are open than before."""
        with self._changed:
            self.connections += more
            self._changed.notify_all()


_FIELDS = {
    "job_result": {"type", "job_id", "worker_address", "result_hash", "proof"},
    "job_refused": {"type", "job_id", "worker_address", "reason", "message"},
}


def _fault(message: Any, *, knows_refusals: bool) -> str:
    """What is wrong with a worker's message, to the letter of the protocol; empty if nothing is."""
    known = [kind for kind in _FIELDS if knows_refusals or kind == "job_result"]  # a list: a kind may be unhashable
    if not isinstance(message, dict) or message.get("type") not in known:
        return "no message of a kind that is known"
    if set(message) != _FIELDS[message["type"]]:
        return f"fields {sorted(message)}"
    texts = {name: value for name, value in message.items() if name != "proof"}
    return "" if all(isinstance(value, str) for value in texts.values()) else "a field is no text"
