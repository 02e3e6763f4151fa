"""How gateways have behaved, remembered from one flow run to the next: whom to ask first, later, and never again."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from millrace.text import printable
from protocols.ipfs.atomic import disk_of, write_atomically
from protocols.ipfs.locks import held

_ERROR_WEIGHT = 3
_MOST_ATTEMPTS = 100
"""From here on all counts are halved, so that a gateway can mend its ways, and lose them."""

_LOCK_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class Standing(BaseModel):
    """What is known about one gateway."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempts: int = 0
    successes: int = 0
    errors: int = 0
    resting_until: float = Field(default=0.0, description="Unix seconds: it asked to be left alone until then")
    rests_since: float = Field(default=0.0, description="Unix seconds of when it asked for that")
    banned: str = Field(default="", description="The lie it told; it is not asked any more")
    banned_at: float = Field(default=0.0, description="Unix seconds")

    @property
    def score(self) -> float:
        """The higher, the earlier it is asked; who was never asked comes first."""
        weight = self.attempts + _ERROR_WEIGHT * self.errors
        return self.successes / weight if weight else math.inf

    def rest_seconds(self, now: float) -> float:
        """How long it is still to be left alone; not at all if the clock was set back since it asked."""
        return max(self.resting_until - now, 0.0) if now >= self.rests_since else 0.0


class _File(RootModel[dict[str, Standing]]):
    pass


@dataclass(frozen=True)
class _Known:
    """What a file of standings tells, and `damaged`, all of its bytes, if some of it could not be read."""

    standings: dict[str, Standing]
    damaged: bytes | None = None


class Standings:
    """The standing of each gateway by its address, in the file `path`; in memory only if that is None.

    Any number of processes may share the file. `clock` gives Unix seconds. What changes it blocks: for its lock at
    most `lock_seconds`, then for the disk. Raises StoreFault if it cannot be kept.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        lock_seconds: float = _LOCK_SECONDS,
    ) -> None:
        self.path = path
        self._clock = clock
        self._lock_seconds = lock_seconds
        self._memory_lock = threading.Lock()
        self._in_memory: dict[str, Standing] = {}

    def all(self) -> dict[str, Standing]:
        """Everything that is known."""
        return dict(self._in_memory) if self.path is None else self._read(self.path).standings

    @staticmethod
    def _read(path: Path) -> _Known:
        with disk_of(path.parent):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                return _Known({})
        try:
            entries = json.loads(raw)
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, dict):
            _logger.warning("%s cannot be read: every gateway begins anew", path)
            return _Known({}, raw)
        read = {name: _standing(entry) for name, entry in entries.items()}
        broken = sorted(name for name, (_, whole) in read.items() if not whole)
        if broken:
            _logger.warning("%s cannot be read in full: what it says of %s", path, printable(", ".join(broken), 500))
        return _Known({name: standing for name, (standing, _) in read.items()}, raw if broken else None)

    def of(self, name: str) -> Standing:
        """The standing of one gateway."""
        return self.all().get(name, Standing())

    def ranked(self, names: Sequence[str]) -> list[str]:
        """`names` in the order in which to ask them; equals stay as the operator listed them."""
        known = self.all()
        return sorted(names, key=lambda name: -known.get(name, Standing()).score)

    def note(self, name: str, *, success: bool = False, error: bool = False, rest_seconds: float = 0.0) -> None:
        """Count one attempt. It counts as neither if it was overtaken, or the gateway has no such content."""

        def counted(old: Standing) -> Standing:
            rest = {"resting_until": self._clock() + rest_seconds, "rests_since": self._clock()}
            halves = 2 if old.attempts >= _MOST_ATTEMPTS else 1
            return old.model_copy(
                update={
                    "attempts": old.attempts // halves + 1,
                    "successes": old.successes // halves + success,
                    "errors": old.errors // halves + error,
                    **(rest if rest_seconds else {}),
                }
            )

        self._change(name, counted)

    def ban(self, name: str, reason: str) -> None:
        """Never ask this gateway again: it sent something else for a CID."""
        self._change(name, lambda old: old.model_copy(update={"banned": reason, "banned_at": self._clock()}))

    def forgive(self, name: str) -> bool:
        """Forget all about this gateway; False if nothing was known."""
        known = name in self.all()
        self._change(name, lambda _: None)
        return known

    def _change(self, name: str, change: Callable[[Standing], Standing | None]) -> None:
        if self.path is None:
            with self._memory_lock:
                self._in_memory = _changed(self._in_memory, name, change)
            return
        with disk_of(self.path.parent), held(self.path.with_suffix(".lock"), self._lock_seconds):
            known = self._read(self.path)
            if known.damaged is not None:
                self._set_aside(self.path, known.damaged)
            standings = _changed(known.standings, name, change)
            write_atomically(self.path, [_File(standings).model_dump_json(indent=1).encode()])

    def _set_aside(self, path: Path, damaged: bytes) -> None:
        """Keep what is about to be written over: whoever was banned in it can still be read there by a person."""
        aside = path.with_suffix(f".damaged-{self._clock():.0f}")
        write_atomically(aside, [damaged])
        _logger.error("%s was damaged and is now %s: look there for who was banned", path, aside)


def _standing(entry: object) -> tuple[Standing, bool]:
    """What `entry` tells, as far as it can be read, and whether that is all of it: a ban outlives a broken count."""
    try:
        return Standing.model_validate(entry), True
    except ValidationError as error:
        if not isinstance(entry, dict):
            return Standing(), False
        broken = {problem["loc"][0] for problem in error.errors()}
        return Standing.model_validate({field: said for field, said in entry.items() if field not in broken}), False


def _changed(
    known: dict[str, Standing], name: str, change: Callable[[Standing], Standing | None]
) -> dict[str, Standing]:
    new = change(known.get(name, Standing()))
    others = {other: standing for other, standing in known.items() if other != name}
    return others if new is None else {**others, name: new}
