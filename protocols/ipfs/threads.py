"""Run blocking calls beside the event loop without ever having to wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

THREAD_NAME = "ipfs-call"


async def in_thread(call: Callable[[], T], *, given_up: Callable[[], None] | None = None) -> T:
    """The result of `call`, made in a thread of its own.

    Unlike `asyncio.to_thread`, a call that was given up on, and that a slow peer still holds, keeps neither the
    event loop nor the process from ending. `given_up` is called then, and may see to it that the thread ends as well.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not done.done():
            set_outcome()

    def tell(set_outcome: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the event loop is gone, and nobody waits any more
            loop.call_soon_threadsafe(settle, set_outcome)

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits, not swallowed
            told = error
            tell(lambda: done.set_exception(told))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        if given_up is not None:
            given_up()
        raise
