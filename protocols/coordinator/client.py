"""A coordinator, whole: both its APIs behind one link."""

from __future__ import annotations

from typing import Self

from pydantic import SecretStr

from protocols.coordinator.early import EarlyTasks
from protocols.coordinator.jobs import Jobs
from protocols.coordinator.link import Link
from protocols.coordinator.storage import MOST_WASM_BYTES, BuildLocks, WasmFiles
from protocols.coordinator.workers import Workers


class Coordinator:
    """One coordinator; an async context manager.

    Arguments: `url` of its API; `token` for all calls but `health`, empty if it wants none; `timeout_seconds` for one
    call, polls not counted; `most_wasm_bytes` of a module. Raises Permanent if the URL cannot be one, or would carry
    the token over a network unencrypted.
    Attributes: `tasks` is the EARLY API, `jobs` and `workers` the later one, `wasm` and `locks` are in both.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        *,
        timeout_seconds: float = 120.0,
        most_wasm_bytes: int = MOST_WASM_BYTES,
    ) -> None:
        self._link = Link(url, token, timeout_seconds=timeout_seconds)
        self.label = self._link.label
        self.tasks = EarlyTasks(self._link)
        self.jobs = Jobs(self._link)
        self.workers = Workers(self._link)
        self.wasm = WasmFiles(self._link, most_wasm_bytes)
        self.locks = BuildLocks(self._link)

    async def health(self) -> None:
        """Return if the coordinator is there. Raises Transient or Refused."""
        await self._link.call("GET", "/health", most_bytes=4096)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._link.close()
