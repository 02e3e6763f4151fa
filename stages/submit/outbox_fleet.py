"""An outbox of a fleet: records in one Redis server, changed by compare-and-set by whoever still holds its locks.

millrace:outbox:record:<sha256 of the job key>   the same text that an outbox of one machine keeps in a file
millrace:outbox:live                             the set of the names whose submission is being followed
millrace:outbox:lock:...                         locks, which expire unless they are renewed; nothing else expires

A lock that expires does not stop its holder, who may have been asleep. So each change tells the server which locks it
was made under, and what it replaces: the server refuses it where either is not so any more.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import redis

from millrace.errors import Transient
from stages.locks.holder import Holder, Wait
from stages.locks.keeper import TTL_SECONDS, Keeper
from stages.locks.server import told
from stages.submit.outbox_store import Kept, Step, name_of

_PREFIX = "millrace:outbox:"
_RECORD = f"{_PREFIX}record:"
_LIVE = f"{_PREFIX}live"
_LOCK = f"{_PREFIX}lock:"

_TRIES = 20
"""How often a change is made anew because another was faster, before something must be wrong."""

# Each is one step for the server. KEYS[3] and those after it are locks, the last ARGV what they must say.
_STILL_OURS = """
for i = 3, #KEYS do
  if redis.call('get', KEYS[i]) ~= ARGV[#ARGV - #KEYS + i] then return 'lost' end
end
"""
_CHANGE = (
    _STILL_OURS
    + """
local before = redis.call('get', KEYS[1])
if ARGV[1] == 'old' then
  if before ~= ARGV[2] then return 'changed' end
elseif before then
  return 'changed'
end
redis.call('set', KEYS[1], ARGV[3])
if ARGV[5] == 'live' then redis.call('sadd', KEYS[2], ARGV[4]) end
return 'done'
"""
)
_SETTLE = (
    _STILL_OURS
    + """
redis.call('srem', KEYS[2], ARGV[1])
return 'done'
"""
)


@dataclass(frozen=True)
class _Fence:
    """A lock that this context holds, or believes to hold, from that store."""

    store: FleetStore
    lock: str
    value: str


_fences: ContextVar[tuple[_Fence, ...]] = ContextVar("outbox_fences", default=())


class FleetStore:
    """Records in the Redis server that `client` reaches.

    Nothing is waited for but the server's answer, which has a time-out. It is as durable as the server: see
    `stages.submit.outbox_diagnosis`. Raises Transient where the server does not answer, Permanent where it refuses us.
    """

    def __init__(self, client: redis.Redis, *, ttl_seconds: float = TTL_SECONDS) -> None:
        """`ttl_seconds` is how long the lock of a killed holder stays."""
        self._client = client
        self._ttl_seconds = ttl_seconds

    def read(self, job_key: str) -> Kept | None:
        """The job's record; None if there is none."""
        name = name_of(job_key)
        content = self._ask("GET", _RECORD + name)
        return None if content is None else Kept(name, _RECORD + name, content)

    def live(self) -> Iterator[Kept]:
        """The records of jobs that are not settled; one that is gone is empty, for nobody takes a record away."""
        yield from self._kept(sorted(name.decode(errors="replace") for name in self._ask("SMEMBERS", _LIVE)))

    def all(self) -> Iterator[Kept]:
        """Every record there is, and those that are live and gone."""
        names = {name.decode(errors="replace") for name in self._ask("SMEMBERS", _LIVE)}
        cursor: Any = 0
        while True:
            cursor, keys = self._ask("SCAN", cursor, "MATCH", f"{_RECORD}*", "COUNT", 1000)
            names |= {key.decode(errors="replace").removeprefix(_RECORD) for key in keys}
            if int(cursor) == 0:
                break
        yield from self._kept(sorted(names))

    def change(self, job_key: str, step: Step, *, revive: bool = False) -> None:
        """Put what `step` makes of the record in its place, while our locks are ours; see `Store.change`."""
        name = name_of(job_key)
        for _ in range(_TRIES):
            kept = self.read(job_key)
            content = step(kept)
            if content is None:
                return
            replaced = ("new", "") if kept is None else ("old", kept.content)
            becomes = "live" if revive or kept is None else ""
            answer = self._under_locks(_CHANGE, name, *replaced, content, name, becomes)
            if answer == b"done":
                return
            if answer == b"lost" or self._held():
                # Also where it was changed under our lock: what we wrote before and had no answer about may be it.
                raise Transient(
                    "the outbox was changed, or a lock of it lost, while a submission was made; nothing was sent",
                    job=job_key,
                    hint="it is tried again, from what the outbox says then",
                )
        raise Transient("the outbox changes faster than it can be written", job=job_key)

    def adopt(self, kept: Kept, *, live: bool) -> bytes:
        """Take over a record of another store, unless there is one of that name; returns the one there is then."""
        becomes = "live" if live else ""
        what = ("new", "", kept.content, kept.name, becomes)
        if self._ask("EVAL", _CHANGE, 2, _RECORD + kept.name, _LIVE, *what) == b"done":
            return kept.content
        return self.like(kept) or b""

    def like(self, kept: Kept) -> bytes | None:
        """What is kept here under the name of that record of another store; None if there is nothing."""
        return cast("bytes | None", self._ask("GET", _RECORD + kept.name))

    def settle(self, job_key: str) -> None:
        """Take the job from the live ones."""
        name = name_of(job_key)
        if self._under_locks(_SETTLE, name, name) != b"done":
            raise Transient("a lock of the outbox was lost", job=job_key, hint="it is tried again")

    @asynccontextmanager
    async def lock(self, job_key: str) -> AsyncIterator[None]:
        """Hold the job's lock; waits for it."""
        async with self._holding(f"{_LOCK}job:{name_of(job_key)}", job_key):
            yield

    @asynccontextmanager
    async def lane_lock(self, lane: str) -> AsyncIterator[None]:
        """Hold the lane's lock; waits for it."""
        async with self._holding(f"{_LOCK}lane:{name_of(lane)}", f"a signature in {lane}"):
            yield

    @asynccontextmanager
    async def followers_turn(self) -> AsyncIterator[bool]:
        """Ours if no other machine has it at the moment."""
        keeper, _ = self._keeper(f"{_LOCK}followers", "reconcile")
        try:
            yield await asyncio.wrap_future(keeper.ask(Wait(0)))
        finally:
            await _given_back(keeper)

    @asynccontextmanager
    async def _holding(self, lock: str, about: str) -> AsyncIterator[None]:
        keeper, value = self._keeper(lock, about)
        try:
            await asyncio.wrap_future(keeper.ask(Wait(None)))
            token = _fences.set((*_fences.get(), _Fence(self, lock, value)))
            try:
                yield
            finally:
                _fences.reset(token)
        finally:
            await _given_back(keeper)

    def _keeper(self, lock: str, about: str) -> tuple[Keeper, str]:
        value = Holder.here(about).line(token=uuid.uuid4().hex)
        return Keeper(self._client, lock, value, ttl_seconds=self._ttl_seconds), value

    def _held(self) -> list[_Fence]:
        return [fence for fence in _fences.get() if fence.store is self]

    def _under_locks(self, script: str, name: str, *arguments: str | bytes) -> Any:
        held = self._held()
        keys = (_RECORD + name, _LIVE, *(fence.lock for fence in held))
        return self._ask("EVAL", script, len(keys), *keys, *arguments, *(fence.value for fence in held))

    def _kept(self, names: list[str]) -> Iterator[Kept]:
        contents = self._ask("MGET", *(_RECORD + name for name in names)) if names else []
        for name, content in zip(names, contents, strict=True):
            yield Kept(name, _RECORD + name, content or b"")

    def _ask(self, *command: Any) -> Any:
        try:
            return cast("Any", self._client).execute_command(*command)
        except redis.RedisError as error:
            raise told(error) from None


async def _given_back(keeper: Keeper) -> None:
    keeper.let_go()
    await asyncio.to_thread(keeper.join)
