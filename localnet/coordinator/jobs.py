"""The later API's jobs: who may do what of a request, once, and what follows from how it ended."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from localnet.coordinator.queues import COMPILE, EXECUTE, Queues
from localnet.coordinator.storage import Modules

PRICING = {
    "base_fee": str(10**21),
    "per_instruction_fee": str(10**14),
    "per_ms_fee": str(10**17),
    "per_compile_ms_fee": str(10**17),
    "max_compilation_seconds": 300,
}
_NO_LIMITS = {"max_instructions": 0, "max_memory_mb": 0, "max_execution_seconds": 0}


class Jobs:
    """Jobs, unique by request, data id and type. A claimed one stays claimed, whatever becomes of its worker."""

    def __init__(self, queues: Queues, modules: Modules, clock: Callable[[], float]) -> None:
        self._queues = queues
        self._modules = modules
        self._clock = clock
        self._lock = threading.RLock()
        self._requests: dict[tuple[int, str], dict[str, Any]] = {}
        self._jobs: list[dict[str, Any]] = []

    def create(self, request: dict[str, Any]) -> bool:
        """Queue a request; whether it is new. It is known only once it was claimed: a second create queues it again."""
        key = (request["request_id"], request["data_id"])
        with self._lock:
            if any(job["key"] == key for job in self._jobs):
                return False
            self._requests[key] = request
            self._queues.push(COMPILE if self._must_compile(request) else EXECUTE, request)
            return True

    def claim(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The one job of the request that is the worker's now, or none."""
        key = (asked["request_id"], asked["data_id"])
        able = asked["capabilities"]
        with self._lock:
            built = self._find(key, "compile")
            failed = built is not None and built["state"] == "failed"
            compiles = built is None and not asked.get("has_compile_result") and self._must_compile(asked)
            ready = failed or (not compiles and (built is None or built["state"] == "completed"))
            if compiles and "compilation" in able:
                taken = [self._take(key, "compile", asked)]
            elif ready and "execution" in able and not asked.get("compile_only") and not self._find(key, "execute"):
                taken = [self._take(key, "execute", asked)]
                if failed and built is not None:
                    taken[0]["compile_error"] = built["error"]
            else:
                taken = []
            return {"jobs": [_without_key(job) for job in taken], "pricing": PRICING}

    def complete(self, report: dict[str, Any]) -> bool:
        """Note how a job ended; False if there is none. A compilation's end queues the execution, with limits or 0."""
        with self._lock:
            job = next((job for job in self._jobs if job["job_id"] == report["job_id"]), None)
            if job is None:
                return False
            job["state"] = "completed" if report["success"] else "failed"
            job["error"] = report.get("error")
            request = self._requests.get(job["key"])
            if job["job_type"] == "compile" and request is not None and not request.get("compile_only"):
                limits = {} if report["success"] else {"resource_limits": _NO_LIMITS}
                told = {"compile_result": report.get("compile_result") or job["state"]}
                self._queues.push(EXECUTE, {**request, **limits, **told})
            return True

    def states(self) -> list[dict[str, Any]]:
        """All jobs, with `state` in_progress, completed or failed."""
        with self._lock:
            return [{**_without_key(job), "state": job["state"], "worker_id": job["worker_id"]} for job in self._jobs]

    def _take(self, key: tuple[int, str], kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        job = {
            "key": key,
            "state": "in_progress",
            "worker_id": asked["worker_id"],
            "job_id": len(self._jobs) + 1,
            "job_type": kind,
            "wasm_checksum": checksum_of(asked.get("code_source")),
            "allowed": True,
            "created_at": int(self._clock()),
        }
        self._jobs.append(job)
        return job

    def _find(self, key: tuple[int, str], kind: str) -> dict[str, Any] | None:
        return next((job for job in self._jobs if job["key"] == key and job["job_type"] == kind), None)

    def _must_compile(self, request: dict[str, Any]) -> bool:
        checksum = checksum_of(request.get("code_source"))
        known = checksum is None or self._modules.content(checksum) is not None
        return not known or bool(request.get("force_rebuild"))


def checksum_of(source: Any) -> str | None:
    """What a source's module is kept under; None if there is no source."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "WasmUrl":
        return str(source["hash"])
    text = f"{source['repo']}:{source['commit']}:{source.get('build_target') or 'wasm32-wasip1'}"
    return hashlib.sha256(text.encode()).hexdigest()


def _without_key(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name not in ("key", "state", "worker_id", "error")}
