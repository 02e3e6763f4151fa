"""The embedded store's quota: what is in its folder, and what has to go when it gets too much.

Least recently used goes first, pinned content never. How much there is, is counted from the folder itself; the sum is
kept in a file only between two writes that both ended well, and not for long, so that it cannot stay wrong.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from protocols.ipfs.errors import StoreFull
from protocols.ipfs.locks import held

CONTENT_SUFFIXES = (".raw", ".dag")
NOTE_SUFFIX = ".json"
DAMAGED_SUFFIX = ".damaged"
TEMPORARY_PREFIX = ".writing-"

_BELIEVED_SECONDS = 3600.0
_FILLED_AGAIN = 0.9
"""Share of the quota that an eviction leaves, so that the next write does not have to count again."""

_logger = logging.getLogger(__name__)


class _Usage(BaseModel):
    total_bytes: int
    counted_at: float


@dataclass(frozen=True)
class _Kept:
    """One content with its note."""

    path: Path
    size_bytes: int
    used_at: float


class Room:
    """The room that the store in `root` has; `is_pinned` tells by a content's path. `clock` gives Unix seconds.

    Everything here is done with `lock` held, as is every write to the folder.
    """

    def __init__(
        self, root: Path, quota_bytes: int | None, is_pinned: Callable[[Path], bool], clock: Callable[[], float]
    ) -> None:
        self._root = root
        self._quota_bytes = quota_bytes
        self._is_pinned = is_pinned
        self._clock = clock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the folder. Readers need no lock: what they have open stays readable."""
        with held(self._root / ".lock"):
            yield

    @contextmanager
    def taking(self, size_bytes: int) -> Iterator[None]:
        """Make room for `size_bytes` more, which are written inside.

        Raises StoreFull, and evicts nothing, if that cannot be done without touching pinned content.
        """
        if self._quota_bytes is None:
            yield
            return
        usage = self._root / ".usage"
        known = self._believed(usage)
        usage.unlink(missing_ok=True)  # a crash from here on has the next one count anew
        if known is None or known.total_bytes + size_bytes > self._quota_bytes:
            known = _Usage(total_bytes=self._make_room(size_bytes, self._quota_bytes), counted_at=self._clock())
        yield
        known.total_bytes += size_bytes
        usage.write_text(known.model_dump_json())

    def _believed(self, usage: Path) -> _Usage | None:
        try:
            known = _Usage.model_validate_json(usage.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return known if 0 <= self._clock() - known.counted_at < _BELIEVED_SECONDS else None

    def _make_room(self, size_bytes: int, quota_bytes: int) -> int:
        """Count, and evict if need be; returns the bytes that are left."""
        contents, damaged, total_bytes = self._count()
        if total_bytes + size_bytes <= quota_bytes:
            return total_bytes
        evictable = [*damaged, *sorted((c for c in contents if not self._is_pinned(c.path)), key=lambda c: c.used_at)]
        pinned_bytes = total_bytes - sum(kept.size_bytes for kept in evictable)
        if pinned_bytes + size_bytes > quota_bytes:
            raise StoreFull(
                f"the store at {self._root} has no room for {size_bytes} bytes: {pinned_bytes} of {quota_bytes} are"
                " pinned",
                hint="raise MILLRACE_IPFS__QUOTA_BYTES, or publish results elsewhere: only then they need no pin here",
            )
        for kept in evictable:
            if total_bytes + size_bytes <= quota_bytes * _FILLED_AGAIN:
                break
            _logger.info("evicting %s: %d bytes", kept.path.name, kept.size_bytes)
            # The content first: whatever has content has a note.
            kept.path.unlink(missing_ok=True)
            _note_of(kept.path).unlink(missing_ok=True)
            total_bytes -= kept.size_bytes
        return total_bytes

    def _count(self) -> tuple[list[_Kept], list[_Kept], int]:
        """Contents, what is damaged, and the bytes of both; what a killed writer left is removed."""
        contents: list[_Kept] = []
        damaged: list[_Kept] = []
        total_bytes = 0
        for folder in self._root.glob("??"):
            for path in folder.iterdir():
                if path.name.startswith(TEMPORARY_PREFIX) or self._is_left_over(path):
                    path.unlink(missing_ok=True)
                elif path.suffix in (*CONTENT_SUFFIXES, DAMAGED_SUFFIX):
                    kept = _kept(path)
                    (damaged if path.suffix == DAMAGED_SUFFIX else contents).append(kept)
                    total_bytes += kept.size_bytes
        return contents, damaged, total_bytes

    @staticmethod
    def _is_left_over(path: Path) -> bool:
        return path.suffix == NOTE_SUFFIX and not path.with_suffix("").exists()


def touch(path: Path, now: float) -> None:
    """Note that content was used."""
    with suppress(FileNotFoundError):
        os.utime(path, (now, now))


def _note_of(path: Path) -> Path:
    return path.with_suffix(path.suffix + NOTE_SUFFIX)


def _kept(path: Path) -> _Kept:
    """A reader may set damaged content aside at any time: then it counts for nothing until the next time."""
    found = _stat(path)
    note = _stat(_note_of(path)) if path.suffix != DAMAGED_SUFFIX else None
    size_bytes = sum(stat.st_size for stat in (found, note) if stat is not None)
    return _Kept(path, size_bytes, found.st_mtime if found is not None else 0.0)


def _stat(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return path.stat()
    return None
