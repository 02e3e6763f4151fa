"""The worker's key: a file with a JSON array of 64 integers, as the Solana tools write it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from pathlib import Path

from solders.keypair import Keypair

from millrace.errors import Permanent
from millrace.redaction import register_secret

_MOST_BYTES = 4096


class UnusableKeypair(Permanent):
    """The key file is not there for us alone, or is not a key. Its content is never part of the message."""


def load_or_create_keypair(path: Path) -> tuple[Keypair, bool]:
    """The keypair in the file at `path`, made there (mode 0600) if there is none; True if it was made now.

    Two processes that start at once agree on one key: the file appears whole or not at all, and once.

    Raises UnusableKeypair if group or others may read the file, or if it does not hold a keypair.
    """
    try:
        return load_keypair(path), False
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    created = _create(path)
    return load_keypair(path), created


def load_keypair(path: Path) -> Keypair:
    """The keypair in the file at `path`. Raises FileNotFoundError if there is none, else UnusableKeypair."""
    # Not blocking, in case the path is a pipe; the checks are on what was opened, not on what the path is by then.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableKeypair(f"{path} is not a file", hint="point WORKER_KEYPAIR_PATH at the key file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UnusableKeypair(f"{path} can be used by others (mode {mode:04o})", hint=f"chmod 600 {path}")
        content = os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)
    keypair = _parse(content)
    if keypair is None:
        raise UnusableKeypair(
            f"{path} does not hold a keypair", hint="it must be a JSON array of 64 integers, as solana-keygen writes it"
        )
    register_secret(str(keypair))
    register_secret(content.decode().strip())
    return keypair


def _parse(content: bytes) -> Keypair | None:
    try:
        # Decoded here: the parser would take UTF-16 as well, and what is not ASCII is no array of integers.
        numbers = json.loads(content.decode("ascii"))
        if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
            return None
        return Keypair.from_bytes(bytes(numbers))
    except (ValueError, RecursionError):  # the latter for brackets within brackets
        # The error would quote the file, and that is the key.
        return None


def _create(path: Path) -> bool:
    """Write a new key to `path` unless somebody was faster; True if ours is the one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(list(bytes(Keypair()))).encode())
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists, a rename would put our key in place of another's.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            _sync_folder(path.parent)
            return True
        return False
    finally:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
