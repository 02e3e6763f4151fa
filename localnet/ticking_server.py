"""The HTTP server under a chain's stand-in: it also lets time pass for the chain when nobody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from localnet.http_server import Connection, StandInServer

_TICK_SECONDS = 0.05


class TickingServer(StandInServer):
    """A stand-in's server that calls `settle` every few hundredths of a second, so that blocks come in time.

    Arguments but `settle`: those of `StandInServer`.
    """

    def __init__(self, port: int, connection: type[Connection], name: str, settle: Callable[[], object]) -> None:
        super().__init__(port, connection, name)
        self._settle = settle
        self._ticks = threading.Thread(target=self._tick, name=f"{name}-blocks", daemon=True)

    def start(self) -> None:
        """Answer requests and make blocks, in threads of its own."""
        super().start()
        self._ticks.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait until all threads are gone."""
        super().stop()
        if self._ticks.ident is not None:
            self._ticks.join()

    def _tick(self) -> None:
        while not self.stopping.wait(_TICK_SECONDS):
            self._settle()
