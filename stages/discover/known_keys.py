"""Account addresses that need never be read again, kept in one small file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from solders.pubkey import Pubkey

KEY_BYTES = 32


class KnownKeys:
    """A set of addresses that only ever grows, in the file at `path`: 32 bytes each, one after the other.

    A write torn by a crash leaves at most one record that is no account's address, and a tail that the next write
    cuts off: what was remembered before stays readable, and nothing is remembered that was not meant to be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = path.read_bytes() if path.exists() else b""
        self._keys = {Pubkey.from_bytes(record) for record in _records(stored)}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: Iterable[Pubkey]) -> None:
        """Remember `keys`; they are on disk when this returns."""
        new = set(keys) - self._keys
        if not new:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            file.truncate(end - end % KEY_BYTES)
            file.seek(0, os.SEEK_END)
            file.write(b"".join(map(bytes, new)))
            file.flush()
            os.fsync(descriptor)
        self._keys |= new


def _records(stored: bytes) -> Iterator[bytes]:
    for start in range(0, len(stored) - KEY_BYTES + 1, KEY_BYTES):
        yield stored[start : start + KEY_BYTES]
