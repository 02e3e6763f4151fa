"""A local coordinator of OffchainVM: both its APIs behind bearer tokens, traps included, in this process.

with CoordinatorLocalnet(token="secret-of-mine") as net:
    net.board.create_task(compile_task(1))
    print(net.url, net.board.reports("tasks_complete"))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from localnet.coordinator.board import Board
from localnet.coordinator.samples import compile_task, execution
from localnet.coordinator.server import Server

__all__ = ["Board", "CoordinatorLocalnet", "compile_task", "execution"]


class CoordinatorLocalnet:
    """One coordinator; a context manager.

    Arguments: `token` is the bearer token that it asks for, none if empty; `port` 0 takes a free one; `clock` gives
    Unix seconds, by which locks and challenges end. Attributes: `url` (once made) and `board`, with all it knows and
    all controls. Raises OSError if the port is taken.
    """

    def __init__(self, *, token: str = "", port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.board = Board([token] if token else [], clock=clock)
        self._server = Server(self.board, port)
        self.url = self._server.url

    def start(self) -> Self:
        """Begin to answer; returns itself."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Send away who polls, close every connection and the port; a stopped localnet cannot be started again."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
