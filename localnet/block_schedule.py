"""When blocks are due, from a clock that tests may replace or stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator


class BlockSchedule:
    """Times of blocks.

    Arguments: `clock` gives Unix time in seconds; `block_seconds` lie between two blocks.
    """

    def __init__(self, clock: Callable[[], float], block_seconds: float) -> None:
        self.now = clock
        self.frozen = False
        self.set_block_seconds(block_seconds)

    def set_block_seconds(self, seconds: float) -> None:
        """Let that much time lie between blocks from now on. Raises ValueError if it is not positive."""
        if not seconds > 0:
            raise ValueError(f"block_seconds is {seconds}, must be positive")
        self._block_seconds = seconds
        self._next_at = self.now() + seconds

    def freeze(self) -> None:
        """Let no more blocks fall due."""
        self.frozen = True

    def thaw(self) -> None:
        """Let blocks fall due again, the next one a block time from now."""
        if self.frozen:
            self.frozen = False
            self._next_at = self.now() + self._block_seconds

    def due(self) -> Iterator[float]:
        """The times of the blocks that fell due since this was last asked, oldest first."""
        while not self.frozen and self._next_at <= self.now():
            at = self._next_at
            self._next_at += self._block_seconds
            yield at
