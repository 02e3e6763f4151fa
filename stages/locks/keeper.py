"""One lock in Redis, from asking for it to giving it back, in a thread of its own.

The lock is a key that exists for `ttl_seconds` unless it is renewed. All that waits for the server happens in the
thread: an event loop never does, and whoever stops waiting has nothing left to undo.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, cast

import redis

from stages.locks.holder import Holder, Wait
from stages.locks.server import told

TTL_SECONDS = 30.0
"""How long the lock of a killed holder, or of one without a network, stays."""

_RENEWALS_A_LIFE = 3
"""How often a lock is renewed in the time after which it would expire: two in a row may fail."""

# Each is one step for the server. The value says whose the lock is, and is nobody else's.
_TAKE = """
if redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
return redis.call('get', KEYS[1])
"""
_RENEW = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
_GIVE_BACK = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1]) or 0"

_logger = logging.getLogger("millrace.locks")


class Keeper:
    """Asks for the lock called `name` until it has it or `wait` is over, and keeps it until `let_go`."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        value: str,
        *,
        ttl_seconds: float,
        hold_seconds: float | None = None,
        after: Keeper | None = None,
    ) -> None:
        """`value` must be unlike any other's; `after` is our own former keeper of this lock, which may not be done."""
        self._client = client
        self._name = name
        self._value = value
        self._ttl_seconds = ttl_seconds
        self._hold_seconds = hold_seconds
        self._after = after
        self._unwanted = threading.Event()
        self._expires: float | None = None
        """When the server forgets the lock at the earliest, by the monotonic clock; None if it is not ours."""
        self.taken: Future[bool] = Future()
        """Whether we got it. Transient if the server does not answer, Permanent if it will not have us."""
        self._thread: threading.Thread | None = None

    def ask(self, wait: Wait) -> Future[bool]:
        """Begin. What the thread logs is told as the caller's."""
        self.taken.set_running_or_notify_cancel()  # whoever stops waiting for it does not end it: `let_go` does
        # A daemon: a process that wants to end is not kept, and its locks expire.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._live, wait), name="millrace-lock", daemon=True
        )
        self._thread.start()
        return self.taken

    @property
    def holds(self) -> bool:
        """Whether the lock is ours for certain: wanted, got, and renewed in time."""
        expires = self._expires
        return expires is not None and not self._unwanted.is_set() and time.monotonic() < expires

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come: not got, lost or given back."""
        return self._thread is not None and not self._thread.is_alive()

    def let_go(self) -> None:
        """Give the lock back, or stop asking for it; returns at once, see `join`."""
        self._unwanted.set()

    def join(self) -> None:
        """Wait until the lock is given back or that has failed: a few of the client's time-outs at most."""
        if self._thread is not None:
            self._thread.join()

    def _live(self, wait: Wait) -> None:
        try:
            taken = self._take(wait)
        except redis.RedisError as error:
            # It may be ours, and the answer lost; if this does not arrive either, it expires.
            with suppress(redis.RedisError):
                self._server(_GIVE_BACK)
            self.taken.set_exception(told(error))
            return
        except BaseException as error:  # noqa: BLE001 - delivered to whoever waits
            self.taken.set_exception(error)
            return
        self.taken.set_result(taken)
        if taken:
            lost = self._keep()
            self._expires = None
            if lost:
                _logger.warning("the lock is lost, and another worker may do the same work beside us: %s", lost)
            else:
                self._give_back()

    def _take(self, wait: Wait) -> bool:
        if self._after is not None:
            self._after.join()
        while not self._unwanted.is_set():
            asked = time.monotonic()
            owner = self._server(_TAKE)
            if owner is None:
                self._expires = asked + self._ttl_seconds
                wait.over()
                return True
            if not wait.goes_on(Holder.read(_text(owner))):
                break
            self._unwanted.wait(wait.pause())
        return False

    def _keep(self) -> str:
        """Renew the lock until it is not wanted any more; why it is lost, if it is."""
        ends = None if self._hold_seconds is None else time.monotonic() + self._hold_seconds
        while not self._unwanted.wait(self._until_renewal(ends)):
            asked = time.monotonic()
            if ends is not None and asked >= ends:
                break
            try:
                if self._server(_RENEW) != 1:
                    return "the server has forgotten it, or given it to another"
                self._expires = asked + self._ttl_seconds
            except redis.RedisError as error:
                if self._expired():
                    return str(told(error))
                _logger.warning("a lock was not renewed, which is tried again: %s", told(error))
        return "it was not renewed in time" if self._expired() else ""

    def _until_renewal(self, ends: float | None) -> float:
        moments = [when - time.monotonic() for when in (self._expires, ends) if when is not None]
        return max(0.0, min(self._ttl_seconds / _RENEWALS_A_LIFE, *moments))

    def _expired(self) -> bool:
        return self._expires is not None and time.monotonic() >= self._expires

    def _give_back(self) -> None:
        try:
            self._server(_GIVE_BACK)
        except redis.RedisError as error:
            _logger.warning("a lock stays for up to %.0f s: %s", self._ttl_seconds, told(error))

    def _server(self, script: str) -> Any:
        ttl_milliseconds = str(round(self._ttl_seconds * 1000))
        more = () if script is _GIVE_BACK else (ttl_milliseconds,)
        return cast("Any", self._client.eval(script, 1, self._name, self._value, *more))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
