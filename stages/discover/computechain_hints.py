"""Look sooner: the node's event stream names the block of each transaction, which tells that there is one.

A block without transactions is never announced, and an event may be late, lost or a lie. It only ends a wait early.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Self

from millrace.errors import MillraceError
from protocols.computechain.rpc import ComputeChainRpc

_logger = logging.getLogger(__name__)

_LEAST_WAIT_SECONDS = 1.0
"""Between two looks, however many events there are."""

_REOPEN_SECONDS = 30.0
"""Before a stream that ended is opened again; one that cannot be had is a question in so long."""


_BREATH_SECONDS = 0.002
"""After each event: a node that never stops does not keep us busy."""


class BlockHints:
    """Listens to the node from the first wait on, in the background; an async context manager.

    Arguments: `elapsed` gives seconds that never go back.
    """

    def __init__(
        self,
        rpc: ComputeChainRpc,
        *,
        elapsed: Callable[[], float] = time.monotonic,
        reopen_seconds: float = _REOPEN_SECONDS,
    ) -> None:
        self._rpc = rpc
        self._elapsed = elapsed
        self._reopen_seconds = reopen_seconds
        self._listening: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._known = self._named = -1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def wait(self, seconds: float, known: int) -> None:
        """Return after `seconds`, or sooner if an event names a block higher than `known`; whatever the stream does.

        What came between two waits counts as well. Never returns within a second that was to be waited.
        """
        ends = self._elapsed() + seconds
        self._known = known
        if self._named <= known:
            self._hint.clear()  # it was about a block that the last look has seen
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        await asyncio.sleep(min(seconds, _LEAST_WAIT_SECONDS))
        try:
            async with asyncio.timeout(max(0.0, ends - self._elapsed())):
                await self._hint.wait()
        except TimeoutError:
            return
        finally:
            self._named = -1  # one lie about a block far ahead is good for one look
            self._hint.clear()

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._rpc.events()) as events:
                    async for event in events:
                        if event.block_height is not None and event.block_height > self._known:
                            self._named = max(self._named, event.block_height)
                            self._hint.set()
                        await asyncio.sleep(_BREATH_SECONDS)
            except MillraceError as error:
                _logger.debug("no events, which does not matter: %s", error)
            except Exception:
                # Nobody waits for this task, and without hints all goes on.
                _logger.exception("the node's events are listened to no longer")
                return
            await asyncio.sleep(self._reopen_seconds)
