"""Everything that the local coordinator knows, and what tests may do to it."""

from __future__ import annotations

import hashlib
import secrets
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from localnet.coordinator.jobs import Jobs
from localnet.coordinator.queues import TASKS, Queues
from localnet.coordinator.storage import Locks, Modules
from localnet.faults import Fault, Faults

CALLS = (
    "health",
    "tasks_poll",
    "tasks_create",
    "tasks_complete",
    "tasks_fail",
    "wasm_download",
    "wasm_exists",
    "wasm_upload",
    "locks_acquire",
    "locks_release",
    "executions_poll",
    "executions_create",
    "jobs_claim",
    "jobs_complete",
    "heartbeat",
    "block_cursor",
    "tee_challenge",
    "register_tee",
)
"""Names of the calls, for counts and faults."""

_CHALLENGE_SECONDS = 60


class Board:
    """The coordinator's state. `tokens` are hashed at once; with none of them, everybody is let in."""

    def __init__(self, tokens: Iterable[str], *, clock: Callable[[], float]) -> None:
        self.calls: Counter[str] = Counter()
        self.queues = Queues()
        self.modules = Modules(clock)
        self.locks = Locks(clock)
        self.jobs = Jobs(self.queues, self.modules, clock)
        self._clock = clock
        self._token_hashes = {hashlib.sha256(token.encode()).hexdigest() for token in tokens}
        self._wants_tokens = bool(self._token_hashes)
        self._wants_session = False
        self._faults = Faults()
        self._lock = threading.Lock()
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._heartbeats: dict[str, dict[str, Any]] = {}
        self._challenges: dict[str, float] = {}
        self._sessions: set[str] = set()
        self._tee_keys: set[str] = set()

    # ---- what callers meet ----

    def lets_in(self, authorization: str | None) -> bool:
        """Whether the header holds one of the tokens, or none is wanted."""
        if not self._wants_tokens:
            return True
        token = (authorization or "").removeprefix("Bearer ")
        found = hashlib.sha256(token.encode("latin-1")).hexdigest()
        return (authorization or "").startswith("Bearer ") and found in self._token_hashes

    def may_execute(self, session_id: str | None) -> bool:
        """Whether that session may claim executions."""
        return not self._wants_session or session_id in self._sessions

    def count(self, call: str) -> Fault | None:
        """Count a call; the fault that it meets."""
        with self._lock:
            self.calls[call] += 1
            return self._faults.take(call)

    def note(self, call: str, report: dict[str, Any]) -> None:
        """Keep what a worker reports."""
        with self._lock:
            self._reports.setdefault(call, []).append(report)

    def heard_from(self, heartbeat: dict[str, Any]) -> None:
        """Keep a worker's newest heartbeat."""
        with self._lock:
            self._heartbeats[heartbeat["worker_id"]] = heartbeat

    def block_cursor(self) -> int | None:
        """The highest block of all heartbeats."""
        heights = [each.get("event_monitor_block_height") for each in self.heartbeats().values()]
        return max((height for height in heights if height is not None), default=None)

    def challenge(self) -> str:
        """A new challenge, for 60 s."""
        made = secrets.token_hex(32)
        self._challenges[made] = self._clock() + _CHALLENGE_SECONDS
        return made

    def register(self, public_key: str, challenge: str) -> tuple[int, str]:
        """An HTTP status and, with 200, a session's id. Signatures are not looked at."""
        if self._challenges.pop(challenge, 0.0) <= self._clock():
            return 400, ""
        if public_key not in self._tee_keys:
            return 403, ""
        session_id = str(uuid.uuid4())
        self._sessions.add(session_id)
        return 200, session_id

    # ---- controls ----

    def create_task(self, task: dict[str, Any]) -> None:
        """Queue a task of the EARLY API: anything at all, a malformed one too."""
        self.queues.push(TASKS, {"type": "Compile", **task})

    def create_execution(self, request: dict[str, Any]) -> bool:
        """Queue a request of the later API; whether it is new."""
        return self.jobs.create(request)

    def push(self, queue: str, entry: Any) -> None:
        """Put anything at all into a queue: `tasks`, `compile` or `execute`."""
        self.queues.push(queue, entry)

    def reports(self, call: str) -> list[dict[str, Any]]:
        """What was told to a call (`tasks_complete`, `tasks_fail`, `jobs_complete`), in order."""
        with self._lock:
            return list(self._reports.get(call, []))

    def heartbeats(self) -> dict[str, dict[str, Any]]:
        """The newest heartbeat of each worker."""
        with self._lock:
            return dict(self._heartbeats)

    def job_states(self) -> list[dict[str, Any]]:
        """All jobs that were ever claimed."""
        return self.jobs.states()

    def queue_lengths(self) -> dict[str, int]:
        """How much waits in each queue."""
        return self.queues.lengths()

    def held_locks(self) -> dict[str, str]:
        """Who holds which lock."""
        return self.locks.held()

    def put_wasm(self, checksum: str, content_hex: str) -> None:
        """Keep a module as if somebody had uploaded it."""
        self.modules.put(checksum, bytes.fromhex(content_hex), "https://github.com/a/b", "c", "wasm32-wasip1")

    def damage_wasm(self, checksum: str, content_hex: str, noticed: bool = False) -> None:
        """Change a module's bytes; `noticed`: their hash tells, and the file is deleted when asked for."""
        self.modules.damage(checksum, bytes.fromhex(content_hex), noticed=noticed)

    def deactivate_tokens(self) -> None:
        """Let nobody in any more."""
        self._wants_tokens = True
        self._token_hashes.clear()

    def require_sessions(self, public_keys: list[str]) -> None:
        """Give executions only to sessions, which the holders of these keys may open."""
        self._wants_session = True
        self._tee_keys = set(public_keys)

    def fail(
        self,
        call: str,
        times: int = 1,
        status: int = 503,
        kind: str = "status",
        seconds: float = 30.0,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Have the next requests of a call meet a fault. Raises ValueError for a kind or call that does not exist."""
        if call != "*" and call not in CALLS:
            raise ValueError(f"no call is named {call!r}; known: {', '.join(CALLS)}")
        with self._lock:
            self._faults.add(call, Fault(times, kind, status, seconds, retry_after_seconds))

    def clear_faults(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._faults.clear()
