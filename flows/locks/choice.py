"""Which locks there are: those of this machine, or those of the fleet if the settings name its Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from prefect.locking.protocol import LockManager

from flows.locks.files import FileLocks
from flows.locks.fleet import RedisLocks
from millrace.settings import Settings
from stages.locks.server import connect

Locks = Callable[[str], AbstractAsyncContextManager[LockManager]]
"""Locks for a stage of the job with that key; what is still held at the end of the block is let go."""


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncIterator[Locks]:
    """The locks that the settings ask for. Nothing is connected before a lock is wanted.

    Raises Permanent if the address of the fleet's Redis makes no sense.
    """
    url = settings.fleet_url.get_secret_value() if settings.fleet_url is not None else ""
    if not url:
        yield partial(FileLocks, settings.data_dir / "locks")
        return
    client = connect(url)
    try:
        yield partial(RedisLocks, client)
    finally:
        await asyncio.to_thread(client.close)
