"""Write a file so that after a crash either all of it is there under its name or nothing is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protocols.ipfs.errors import StoreFault


@contextmanager
def disk_of(folder: Path) -> Iterator[None]:
    """What the disk does wrong inside becomes a StoreFault about `folder`."""
    try:
        yield
    except OSError as error:
        raise StoreFault(
            f"the store at {folder} failed: {error}", hint="is the disk full, and the folder ours?"
        ) from None


def write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """Write `pieces` to `path`: a temporary file beside it, flushed to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """A rename is in the folder, and the folder has to reach the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
