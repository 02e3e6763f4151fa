"""The embedded store: content in files under their true CIDs, verified whenever it is read.

Content in this store is addressed but not available to others until a sink has published it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocols.ipfs.atomic import disk_of, write_atomically
from protocols.ipfs.car import read_car, write_car
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import (
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    UnsupportedContent,
)
from protocols.ipfs.importer import import_blocks, import_file, matching_profile
from protocols.ipfs.locks import SUFFIX as LOCK_SUFFIX
from protocols.ipfs.multibase import encode_base32
from protocols.ipfs.profiles import PROFILES, V1, Profile
from protocols.ipfs.reader import ReadLimits, read_file, walk_dag
from protocols.ipfs.room import DAMAGED_SUFFIX, NOTE_SUFFIX, Room, touch
from protocols.ipfs.verified import Verified

CAR_PROFILE = "car"
"""Profile of an entry whose blocks are kept as they came, because no known profile makes them."""

_READ_CHUNK_BYTES = 1 << 20
_logger = logging.getLogger(__name__)


class Entry(BaseModel):
    """What the store notes beside each content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cid: str = Field(description="The CID it was put under")
    profile: str = Field(description="Name of the import profile, `raw` for a single raw block, or `car`")
    size: int = Field(description="Bytes kept in the file")
    created: float = Field(description="Unix seconds of when it was put")
    pinned: bool = Field(default=False, description="True if it must not be evicted to make room")


class ContentStore:
    """Content by CID in the folder `root`, shared safely between threads and processes: every write is atomic.

    An entry is `<root>/<two letters>/<multihash in base 32>.<raw or dag>` with its note in `.json` beside it. Above
    `quota_bytes` what was not used for longest is evicted, unless it is pinned; every write raises StoreFull if that
    does not make enough room, and StoreFault if the disk fails. `clock` gives Unix seconds.
    """

    def __init__(self, root: Path, *, quota_bytes: int | None = None, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        self._room = Room(root, quota_bytes, self._is_pinned, clock)

    def put(self, content: bytes, profile: Profile = V1, *, pinned: bool = False) -> CID:
        """Keep a file and return its CID under `profile`, which may be one of your own."""
        cid = import_file(content, profile).cid
        if cid.codec == RAW or PROFILES.get(profile.name) == profile:
            self._write(cid, _profile_name(cid, profile), [content], len(content), pinned)
        else:
            blocks = {block_cid.multihash: block for block_cid, block in import_blocks(content, profile)[1].items()}
            self.put_dag(cid, partial(_block_of, blocks), pinned=pinned)
        return cid

    def keep(self, verified: Verified, *, pinned: bool = False) -> None:
        """Keep verified content under the CID it was asked for, in whatever dialect it was imported."""
        cid, content = verified.cid, verified.content
        if cid.inline is not None:
            return  # the CID is the content
        if cid.codec == RAW:
            self._write(cid, "raw", [content], len(content), pinned)
        elif profile := matching_profile(cid, content):
            self._write(cid, profile.name, [content], len(content), pinned)
        else:
            self.put_dag(cid, partial(_block_of, verified.blocks), pinned=pinned)

    def put_dag(self, root: CID, block_of: Callable[[CID], bytes], *, pinned: bool = False) -> None:
        """Keep all blocks below `root` as they are: a directory, or a file in a dialect of its own.

        Raises InvalidBlock if a block does not match; what `block_of` raises passes through. `root` must be dag-pb.
        """
        if root.codec == RAW:
            raise UnsupportedContent(f"{root} is a single block: put it as a file")
        pieces = list(write_car(root, walk_dag(root, block_of, _NO_LIMITS)))
        self._write(root, CAR_PROFILE, pieces, sum(map(len, pieces)), pinned)

    def has(self, cid: CID | str) -> bool:
        """True if content of that name is here, without reading it."""
        cid = _parsed(cid)
        return cid.inline is not None or self._path(cid).exists()

    def get(self, cid: CID | str, max_bytes: int | None = None) -> bytes:
        """The file named `cid`, hashed anew.

        Raises ContentUnavailable if it is not here, or was and is damaged (then it is set aside, so that it is
        fetched again); LimitExceeded above `max_bytes`; UnsupportedContent if it is a directory.
        """
        cid = _parsed(cid)
        if cid.inline is not None:
            return b"".join(read_file(cid, _nothing, ReadLimits()))
        entry = self.entry(cid)
        try:
            return self._read(cid, entry, max_bytes)
        except (InvalidBlock, InvalidDag) as error:
            raise self._set_aside(cid, error) from None

    def blocks(self, cid: CID | str) -> Callable[[CID], bytes]:
        """Gives any block below `cid`, verified: to read a directory, or to make a CAR of it.

        Raises as `get` does; the function returned raises ContentUnavailable for a block that is not below it.
        """
        cid = _parsed(cid)
        entry = self.entry(cid)
        try:
            if entry.profile == CAR_PROFILE:
                found = {block_cid.multihash: block for block_cid, block in self._car(cid)}
            else:
                content = self._read(cid, entry, None)
                profile = PROFILES.get(entry.profile)
                imported = import_blocks(content, profile)[1] if profile else {cid: content}
                found = {block_cid.multihash: block for block_cid, block in imported.items()}
        except (InvalidBlock, InvalidDag) as error:
            raise self._set_aside(cid, error) from None
        return partial(_block_of, found)

    def pin(self, cid: CID | str) -> None:
        """Mark content as not to be evicted. Raises ContentUnavailable if it is not here."""
        self._mark(cid, pinned=True)

    def unpin(self, cid: CID | str) -> None:
        """Let content be evicted when room is needed: it can be had elsewhere. As `pin`."""
        self._mark(cid, pinned=False)

    def entry(self, cid: CID | str) -> Entry:
        """What is noted beside the content. Raises ContentUnavailable if it is not here."""
        cid = _parsed(cid)
        path = self._path(cid)
        try:
            if path.exists():
                return self._entry_at(path)
        except FileNotFoundError as error:
            if path.exists():  # otherwise it was evicted between our two looks
                raise self._set_aside(cid, error) from None
        except (OSError, ValidationError) as error:
            raise self._set_aside(cid, error) from None
        raise self._not_here(cid)

    def lock_of(self, cid: CID) -> Path:
        """Where whoever fetches this content holds a lock meanwhile."""
        return self.root / ".fetching" / f"{self._path(cid).name}{LOCK_SUFFIX}"

    def _mark(self, cid: CID | str, *, pinned: bool) -> None:
        cid = _parsed(cid)
        with disk_of(self.root), self._room.lock():
            self._set_pinned(cid, pinned=pinned)

    def _set_pinned(self, cid: CID, *, pinned: bool) -> None:
        entry, path = self.entry(cid), self._path(cid)
        if entry.pinned == pinned:
            return
        if not pinned:
            self._room.may_go(path)
        self._note(cid, entry.model_copy(update={"pinned": pinned}))
        if pinned:
            self._room.must_stay(path)

    def _is_pinned(self, path: Path) -> bool:
        """Whether the content at `path` may not be evicted; content whose note is broken is not worth keeping."""
        try:
            return self._entry_at(path).pinned
        except (OSError, ValidationError):
            return False

    @staticmethod
    def _entry_at(path: Path) -> Entry:
        return Entry.model_validate_json(path.with_suffix(path.suffix + NOTE_SUFFIX).read_bytes())

    def _not_here(self, cid: CID) -> ContentUnavailable:
        return ContentUnavailable(f"{cid} is not in the store at {self.root}", hint="fetch it first")

    def _path(self, cid: CID) -> Path:
        # A raw block and a dag-pb node of the same bytes have one multihash and are different content.
        name = encode_base32(cid.multihash)
        # The last letter holds only the last two bits, so the two before it spread best.
        return self.root / name[-3:-1] / f"{name}.{'raw' if cid.codec == RAW else 'dag'}"

    def _write(self, cid: CID, profile: str, pieces: Iterable[bytes], size: int, pinned: bool) -> None:
        with disk_of(self.root), self._room.lock():
            if self._is_sound(cid):
                touch(self._path(cid), self._clock())
                if pinned:
                    self._set_pinned(cid, pinned=True)
                return
            path = self._path(cid)
            entry = Entry(cid=str(cid), profile=profile, size=size, created=self._clock(), pinned=pinned)
            with self._room.taking(path, size, len(entry.model_dump_json())):
                # The note goes first: content that is there always has one.
                self._note(cid, entry)
                (self._room.must_stay if pinned else self._room.may_go)(path)
                write_atomically(path, pieces)
                touch(path, self._clock())

    def _is_sound(self, cid: CID) -> bool:
        """Whether the content is here and matches; damaged content is set aside, to be written anew."""
        if not self.has(cid):
            return False
        try:
            self.blocks(cid)
        except ContentUnavailable:
            return False
        return True

    def _note(self, cid: CID, entry: Entry) -> None:
        path = self._path(cid)
        write_atomically(path.with_suffix(path.suffix + NOTE_SUFFIX), [entry.model_dump_json().encode()])

    def _read(self, cid: CID, entry: Entry, max_bytes: int | None) -> bytes:
        limits = _NO_LIMITS if max_bytes is None else replace(_NO_LIMITS, max_bytes=max_bytes)
        if entry.profile == CAR_PROFILE:
            found = {block_cid.multihash: block for block_cid, block in self._car(cid)}
            return b"".join(read_file(cid, partial(_block_of, found), limits))
        path = self._path(cid)
        with self._opened(cid) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limits.max_bytes:
                raise LimitExceeded(f"{cid} is {size} bytes, and {max_bytes} are allowed")
            content = file.read()
        profile = PROFILES.get(entry.profile)
        if profile is None:
            cid.verify(content)
        elif not import_file(content, profile).cid.names_same_as(cid):
            raise InvalidBlock(f"{path} no longer matches {cid}")
        return content

    def _car(self, cid: CID) -> Iterator[tuple[CID, bytes]]:
        with self._opened(cid) as file:
            yield from read_car(iter(lambda: file.read(_READ_CHUNK_BYTES), b""))

    @contextmanager
    def _opened(self, cid: CID) -> Iterator[BinaryIO]:
        """The content's file, as used just now; once it is open, an eviction does not touch it."""
        path = self._path(cid)
        with disk_of(self.root):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise self._not_here(cid) from None
            with file:
                touch(path, self._clock())
                yield file

    def _set_aside(self, cid: CID, error: Exception) -> ContentUnavailable:
        path = self._path(cid)
        damaged = path.with_suffix(path.suffix + DAMAGED_SUFFIX)
        with disk_of(self.root), suppress(FileNotFoundError):  # another reader may have done it already
            self._room.may_go(damaged)
            path.replace(damaged)
        _logger.warning("%s was damaged in the store and is now %s: %s", cid, damaged, error)
        return ContentUnavailable(f"{cid} was damaged in the store: {error}", hint="it will be fetched again")


_NO_LIMITS = ReadLimits(max_bytes=1 << 62, max_blocks=1 << 62, max_depth=1 << 10)
"""For content that was verified and limited before it came in."""


def _profile_name(cid: CID, profile: Profile) -> str:
    return "raw" if cid.codec == RAW else profile.name


def _parsed(cid: CID | str) -> CID:
    return CID.parse(cid) if isinstance(cid, str) else cid


def _block_of(blocks: dict[bytes, bytes], cid: CID) -> bytes:
    try:
        return blocks[cid.multihash]
    except KeyError:
        raise ContentUnavailable(f"block {cid} is missing") from None


def _nothing(cid: CID) -> bytes:
    raise ContentUnavailable(f"{cid} is not inline")
