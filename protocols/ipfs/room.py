"""The embedded store's quota: what is in its folder, and what has to go when it gets too much.

Least recently used goes first, pinned content never. What may go has a mark of its own, so that a store full of pins
need not be searched for it. How much there is, is counted from the folder itself; the sum is kept in a file only
between two writes that both ended well, and not for long, so that it cannot stay wrong.
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
MARKS = ".evictable"

_BELIEVED_SECONDS = 3600.0
_REFUSING_SECONDS = 60.0
"""How old a sum may be that a write is refused for: an operator who made room by hand need not wait for an hour."""
_FILLED_AGAIN = 0.9
"""Share of the room beside the pins that an eviction leaves filled, so that the next writes need none."""
_BLOCK_BYTES = 512
"""What `st_blocks` counts in, whatever the file system's own blocks are (stat(3type))."""

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

    Sizes are what files take on the disk. The store's folders themselves, about a thousand, are not counted.
    Everything here is done with `lock` held, as is every write to the folder; only `may_go` needs none.
    """

    def __init__(
        self, root: Path, quota_bytes: int | None, is_pinned: Callable[[Path], bool], clock: Callable[[], float]
    ) -> None:
        self._root = root
        self._marks = root / MARKS
        self._quota_bytes = quota_bytes
        self._is_pinned = is_pinned
        self._clock = clock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the folder. Readers need no lock: what they have open stays readable."""
        with held(self._root / ".lock"):
            yield

    @contextmanager
    def taking(self, path: Path, content_bytes: int, note_bytes: int) -> Iterator[None]:
        """Make room for content at `path` and its note, which are written inside.

        Raises StoreFull, and evicts nothing, if that cannot be done without touching pinned content.
        """
        if self._quota_bytes is None:
            yield
            return
        size_bytes = sum(self._on_disk(size) for size in (content_bytes, note_bytes))
        usage = self._root / ".usage"
        known = self._believed(usage, _BELIEVED_SECONDS)
        if known is None or known.total_bytes + size_bytes > self._quota_bytes:
            known = self._make_room(known, size_bytes, self._quota_bytes, usage)
        usage.unlink(missing_ok=True)  # a crash from here on has the next one count anew
        before_bytes = _kept(path).size_bytes
        yield
        known.total_bytes += _kept(path).size_bytes - before_bytes
        usage.write_text(known.model_dump_json())

    def may_go(self, path: Path) -> None:
        """Mark the file at `path`, content or what was damaged, as one to evict when room is needed."""
        self._marks.mkdir(parents=True, exist_ok=True)
        (self._marks / path.name).touch()

    def must_stay(self, path: Path) -> None:
        """Take the mark away."""
        (self._marks / path.name).unlink(missing_ok=True)

    def _on_disk(self, size_bytes: int) -> int:
        """What a file of that size will take, about; what it really took is added once it is there."""
        block_bytes = os.statvfs(self._root).f_frsize
        return -(-size_bytes // block_bytes) * block_bytes

    def _believed(self, usage: Path, for_seconds: float) -> _Usage | None:
        try:
            known = _Usage.model_validate_json(usage.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        # Without its marks the folder has to be gone through in any case.
        return known if 0 <= self._clock() - known.counted_at < for_seconds and self._marks.is_dir() else None

    def _make_room(self, known: _Usage | None, size_bytes: int, quota_bytes: int, usage: Path) -> _Usage:
        """The sum once `size_bytes` have room, counted anew where `known` is None, or before a write is refused."""
        known = known or self._counted(usage)
        if known.total_bytes + size_bytes <= quota_bytes:
            return known
        evictable = self._evictable()
        if self._needed(known, evictable) + size_bytes > quota_bytes and not self._believed(usage, _REFUSING_SECONDS):
            known, evictable = self._counted(usage), self._evictable()
        needed_bytes = self._needed(known, evictable)
        if needed_bytes + size_bytes > quota_bytes:
            raise self._full(needed_bytes, size_bytes, quota_bytes)
        wanted_bytes = needed_bytes + (quota_bytes - needed_bytes) * _FILLED_AGAIN
        usage.unlink(missing_ok=True)
        for kept in evictable:
            if known.total_bytes + size_bytes <= wanted_bytes:
                break
            known.total_bytes -= self._evict(kept)
        if known.total_bytes + size_bytes > quota_bytes:  # marks were left on what is pinned
            raise self._full(known.total_bytes, size_bytes, quota_bytes)
        return known

    @staticmethod
    def _needed(known: _Usage, evictable: list[_Kept]) -> int:
        return known.total_bytes - sum(kept.size_bytes for kept in evictable)

    def _full(self, pinned_bytes: int, size_bytes: int, quota_bytes: int) -> StoreFull:
        return StoreFull(
            f"the store at {self._root} has no room for {size_bytes} bytes: {pinned_bytes} of {quota_bytes} are pinned",
            hint="raise MILLRACE_IPFS__QUOTA_BYTES, or publish results elsewhere: only then they need no pin here",
        )

    def _evictable(self) -> list[_Kept]:
        """What is marked and still there: what is damaged, then what was not used for longest."""
        found = []
        for mark in self._marks.iterdir():
            path = self._root / mark.name.partition(".")[0][-3:-1] / mark.name
            if path.exists():
                found.append(_kept(path))
            else:
                mark.unlink(missing_ok=True)
        return sorted(found, key=lambda kept: (kept.path.suffix != DAMAGED_SUFFIX, kept.used_at))

    def _evict(self, kept: _Kept) -> int:
        """Remove one content; returns the bytes that are free now."""
        if self._must_be_kept(kept.path):
            self.must_stay(kept.path)  # whoever pinned it was killed before the mark was gone
            return 0
        _logger.info("evicting %s: %d bytes", kept.path.name, kept.size_bytes)
        # The content first: whatever has content has a note.
        kept.path.unlink(missing_ok=True)
        _note_of(kept.path).unlink(missing_ok=True)
        self.must_stay(kept.path)
        return kept.size_bytes

    def _counted(self, usage: Path) -> _Usage:
        """The sum from the files themselves; what a killed writer left is removed, and missing marks are made."""
        self._marks.mkdir(exist_ok=True)
        marked = {mark.name for mark in self._marks.iterdir()}
        total_bytes = 0
        for folder in self._root.glob("??"):
            for path in folder.iterdir():
                if path.name.startswith(TEMPORARY_PREFIX) or self._is_left_over(path):
                    path.unlink(missing_ok=True)
                elif path.suffix in (*CONTENT_SUFFIXES, DAMAGED_SUFFIX):
                    total_bytes += _kept(path).size_bytes
                    if path.name not in marked and not self._must_be_kept(path):
                        self.may_go(path)
        known = _Usage(total_bytes=total_bytes, counted_at=self._clock())
        usage.write_text(known.model_dump_json())
        return known

    def _must_be_kept(self, path: Path) -> bool:
        return path.suffix != DAMAGED_SUFFIX and self._is_pinned(path)

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
    size_bytes = sum(_taken_bytes(stat) for stat in (found, note) if stat is not None)
    return _Kept(path, size_bytes, found.st_mtime if found is not None else 0.0)


def _taken_bytes(stat: os.stat_result) -> int:
    """A file of one byte takes a whole block; some file systems do not tell about blocks, or compress them."""
    return max(stat.st_size, stat.st_blocks * _BLOCK_BYTES)


def _stat(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return path.stat()
    return None
