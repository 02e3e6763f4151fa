"""The folder in which the network's own command line keeps its keys: `<name>.json`, each with a key in clear."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent
from millrace.redaction import register_secret
from millrace.text import printable
from protocols.computechain.keys import ComputeKey, InvalidKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_BYTES = 16_384


class UnusableKey(Permanent):
    """There is no such key, or its file is not for us alone, or holds none. The key is never part of the message."""


@dataclass(frozen=True)
class KeyInfo:
    """What may be shown of a key."""

    name: str
    address: str
    public_key: str
    created_at: str


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    name: str
    address: str
    public_key: str
    private_key: str
    created_at: str = ""


class Keystore:
    """The keys in `folder`, which is made when the first key is (mode 0700); `~` is the user's home."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = folder.expanduser()
        self._clock = clock

    def add(self, name: str) -> ComputeKey:
        """Make a key and keep it as `name`. Raises UnusableKey if the name cannot be one, or is taken."""
        return self.import_key(name, ComputeKey.generate().private_bytes.hex())

    def import_key(self, name: str, private_key: str) -> ComputeKey:
        """Keep a private key (64 hex digits) as `name`. Raises UnusableKey as `add`, InvalidKey if it is none."""
        path = self._path(name)
        key = _parsed(private_key)
        register_secret(key.private_bytes.hex())
        content = {
            "name": name,
            "address": key.address,
            "public_key": key.public_key,
            "private_key": key.private_bytes.hex(),
            "created_at": self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _write_new(path, json.dumps(content, indent=2).encode()):
            raise UnusableKey(
                f"there is a key called {name} already", hint="choose another name: no key is overwritten"
            )
        return key

    def load(self, name: str) -> ComputeKey:
        """The key called `name`; from here on it is masked in every log. Raises UnusableKey."""
        return self._read(self._path(name))[1]

    def show(self, name: str) -> KeyInfo:
        """What may be shown of the key called `name`. Raises UnusableKey."""
        return self._read(self._path(name))[0]

    def list(self) -> list[KeyInfo]:
        """What may be shown of every key, by name. Raises UnusableKey for a file that cannot be used."""
        names = sorted(path.stem for path in self.folder.glob("*.json") if _NAME.fullmatch(path.stem))
        return [self.show(name) for name in names]

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UnusableKey(
                f"{printable(name, 80)!r} cannot be a key's name",
                hint="letters, digits, dots, dashes and underscores, at most 64, not a dot or dash first",
            )
        return self.folder / f"{name}.json"

    def _read(self, path: Path) -> tuple[KeyInfo, ComputeKey]:
        try:
            content = _private_content(path)
        except FileNotFoundError:
            hint = f"`millrace keys computechain add {path.stem}` makes one"
            raise UnusableKey(f"there is no key called {path.stem} in {self.folder}", hint=hint) from None
        try:
            found = _KeyFile.model_validate_json(content)
            key = _parsed(found.private_key)
        except (ValidationError, InvalidKey):
            hint = "it must be as the network's own command line writes it"
            raise UnusableKey(f"{path} does not hold a key", hint=hint) from None
        register_secret(key.private_bytes.hex())
        if (found.address, found.public_key) != (key.address, key.public_key):
            hint = "restore the file from a copy: it was changed by hand"
            raise UnusableKey(f"the address in {path} is not that of its key", hint=hint)
        return KeyInfo(path.stem, key.address, key.public_key, printable(found.created_at, 40)), key


def _parsed(private_key: str) -> ComputeKey:
    try:
        return ComputeKey(bytes.fromhex(private_key.strip()))
    except ValueError:
        raise InvalidKey("this is no private key", hint="it must be 64 hexadecimal digits") from None


def _private_content(path: Path) -> bytes:
    """What is in a file that nobody else can read. Raises FileNotFoundError, UnusableKey."""
    # Not blocking, in case the path is a pipe; the checks are on what was opened, not on what the path is by then.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableKey(f"{path} is not a file", hint="the keystore holds one file a key")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UnusableKey(f"{path} can be used by others (mode {mode:04o})", hint=f"chmod 600 {path}")
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def _write_new(path: Path, content: bytes) -> bool:
    """Put `content` into a new file, whole and for us alone; False if there is a file of that name."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists, a rename would put our key in place of another's.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            return True
        return False
    finally:
        temporary.unlink()
