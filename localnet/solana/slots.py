"""Slots: the time of the chain, made from a clock that tests may replace or stop."""

from __future__ import annotations

from collections.abc import Callable

FIRST_SLOT = 1_000
"""Where the chain begins: late enough that every commitment level has a past."""

COMMITMENT_LAG = {"processed": 0, "confirmed": 2, "finalized": 32}
"""How many slots each commitment level is behind the newest one."""


class SlotClock:
    """Turns seconds into slots.

    Arguments: `clock` gives Unix time in seconds; `slot_milliseconds` is the length of a slot.
    """

    def __init__(self, clock: Callable[[], float], slot_milliseconds: int) -> None:
        if slot_milliseconds <= 0:
            raise ValueError(f"slot_milliseconds is {slot_milliseconds}, must be positive")
        self._clock = clock
        self._slot_milliseconds = slot_milliseconds
        self._genesis_seconds = self._anchor_seconds = clock()
        self._anchor_slot = self._highest = FIRST_SLOT
        self._frozen = False

    @property
    def slot(self) -> int:
        """The newest slot; never less than it was, even if the clock is set back."""
        passed = 0
        if not self._frozen:
            passed = int((self._clock() - self._anchor_seconds) * 1000 / self._slot_milliseconds)
        self._highest = max(self._highest, self._anchor_slot + passed)
        return self._highest

    def unix_seconds(self, slot: int) -> int:
        """The time that slot's block bears."""
        return int(self._genesis_seconds + (slot - FIRST_SLOT) * self._slot_milliseconds / 1000)

    def advance(self, slots: int) -> int:
        """Let that many slots pass at once, frozen or not; returns the new slot."""
        if slots < 0:
            raise ValueError("slots only ever go up")
        self._anchor_slot += slots
        return self.slot

    def freeze(self) -> int:
        """Stop the slots, until `thaw`; returns the slot they stopped at."""
        self._anchor_slot = self.slot
        self._frozen = True
        return self._anchor_slot

    def thaw(self) -> int:
        """Let the slots go on from where they stopped; returns that slot."""
        if self._frozen:
            self._anchor_seconds = self._clock()
            self._frozen = False
        return self.slot
