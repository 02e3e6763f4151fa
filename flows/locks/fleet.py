"""Locks of a fleet: keys in a Redis server, which expire unless their holder lives and renews them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import uuid
from types import TracebackType
from typing import Self

import redis

from stages.locks.holder import Holder, Wait
from stages.locks.keeper import TTL_SECONDS, Keeper
from stages.locks.server import told

_PREFIX = "millrace:lock:"


class RedisLocks:
    """Prefect's `LockManager` on a Redis server, for one stage of one job; what it holds ends with its block.

    `job_key` is told to whoever waits. A lock that could not be renewed in time is not ours any more, which is logged,
    and `is_lock_holder` says so. Raises Transient where the server does not answer, Permanent where it refuses us.
    """

    def __init__(self, client: redis.Redis, job_key: str, *, ttl_seconds: float = TTL_SECONDS) -> None:
        self._client = client
        self._job_key = job_key
        self._ttl_seconds = ttl_seconds
        self._keepers: dict[str, tuple[str, Keeper]] = {}
        self._leaving: dict[str, Keeper] = {}
        self._guard = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Prefect does not let go when it is cancelled between taking a lock and using it, nor while it stores a result.
        with self._guard:
            keepers = [*self._leaving.values(), *(keeper for _, keeper in self._keepers.values())]
            self._keepers.clear()
        for keeper in keepers:
            keeper.let_go()
        for keeper in keepers:
            # A process that ended first would leave its locks for others to wait for.
            await asyncio.to_thread(keeper.join)

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Wait for the lock, `acquire_timeout` seconds at most; whether `holder` has it now, or had it before."""
        wait = Wait(acquire_timeout)
        while (keeper := self._keeper(key, holder, hold_timeout)) is None:
            if not wait.goes_on(None):
                return False
            time.sleep(wait.pause())
        if keeper.holds:
            return True
        taken = False
        try:
            taken = keeper.ask(wait).result()
        finally:
            if not taken:
                self._drop(key, keeper)
        return taken

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`, beside the event loop. Whoever is cancelled while it waits has nothing."""
        wait = Wait(acquire_timeout)
        while (keeper := self._keeper(key, holder, hold_timeout)) is None:
            if not wait.goes_on(None):
                return False
            await asyncio.sleep(wait.pause())
        if keeper.holds:
            return True
        taken = False
        try:
            taken = await asyncio.wrap_future(keeper.ask(wait))
        finally:
            if not taken:
                self._drop(key, keeper)
        return taken

    def release_lock(self, key: str, holder: str) -> None:
        """Let the lock go; the server hears of it a little later. ValueError if `holder` never had it from us."""
        with self._guard:
            held_by, keeper = self._keepers.get(key, ("", None))
        if keeper is None or held_by != holder:
            raise ValueError(f"{holder} does not hold the lock on {key}")
        self._drop(key, keeper)

    def is_locked(self, key: str) -> bool:
        """Whether anybody has the lock; the server is asked only if it is not us."""
        with self._guard:
            _, keeper = self._keepers.get(key, ("", None))
        if keeper is not None and keeper.holds:
            return True
        return self._owner(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder` has the lock from us and it was renewed in time."""
        with self._guard:
            held_by, keeper = self._keepers.get(key, ("", None))
        return keeper is not None and held_by == holder and keeper.holds

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody has the lock, `timeout` seconds at most; whether it came to that."""
        wait = Wait(timeout)
        while (owner := self._owner(key)) is not None:
            if not wait.goes_on(Holder.read(owner)):
                return False
            time.sleep(wait.pause())
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`, beside the event loop."""
        wait = Wait(timeout)
        while (owner := await asyncio.to_thread(self._owner, key)) is not None:
            if not wait.goes_on(Holder.read(owner)):
                return False
            await asyncio.sleep(wait.pause())
        return True

    def _owner(self, key: str) -> str | None:
        """What the server knows about who has the lock; None if nobody."""
        try:
            value = self._client.get(_name(key))
        except redis.RedisError as error:
            raise told(error) from None
        return None if value is None else value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def _keeper(self, key: str, holder: str, hold_timeout: float | None) -> Keeper | None:
        """The keeper for `holder`: the one that has the lock, or a new one; None while another of ours is at it."""
        with self._guard:
            held_by, keeper = self._keepers.get(key, ("", None))
            if keeper is not None and held_by == holder and keeper.holds:
                return keeper
            if keeper is not None and not (held_by == holder and keeper.ended):
                return None
            keeper = Keeper(
                self._client,
                _name(key),
                Holder.here(self._job_key).line(token=uuid.uuid4().hex),
                ttl_seconds=self._ttl_seconds,
                hold_seconds=hold_timeout,
                after=self._leaving.get(key),
            )
            self._keepers[key] = (holder, keeper)
            return keeper

    def _drop(self, key: str, keeper: Keeper) -> None:
        with self._guard:
            if self._keepers.get(key, ("", None))[1] is keeper:
                del self._keepers[key]
                self._leaving[key] = keeper
        keeper.let_go()


def _name(key: str) -> str:
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()
