"""NEAR's ed25519 keys in their text forms, and the credentials files of its command line tools."""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent
from millrace.redaction import register_secret

_PREFIX = "ed25519:"
_KEY_BYTES = 32
_MOST_TEXT = 256
_MOST_FILE_BYTES = 16_384
_ACCOUNT_ID = re.compile(r"(?=.{2,64}\Z)[a-z0-9]+(?:[-_][a-z0-9]+)*(?:\.[a-z0-9]+(?:[-_][a-z0-9]+)*)*")


class InvalidKey(Permanent):
    """A text that is no NEAR key of ours. It is never part of the message."""


class UnusableCredentials(Permanent):
    """The credentials file is not for us alone, or holds no key. Its content is never part of the message."""


@dataclass(frozen=True)
class NearKey:
    """An access key: 32 bytes of seed, which nothing prints, and the public key that belongs to them."""

    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> NearKey:
        """A new key."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public_bytes(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public_key(self) -> str:
        """`ed25519:` and the public key in base58, as the RPC writes it."""
        return public_key_text(self.public_bytes)

    @property
    def secret_key(self) -> str:
        """`ed25519:` and seed and public key in base58: a secret."""
        return f"{_PREFIX}{to_base58(self.seed + self.public_bytes)}"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature; always the same one."""
        return self._key.sign(message)


@dataclass(frozen=True)
class Credentials:
    """An account and one of its access keys."""

    account_id: str
    key: NearKey


class _CredentialsFile(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    account_id: str
    private_key: str = ""
    secret_key: str = ""
    public_key: str = ""


def parse_secret_key(text: str) -> NearKey:
    """The key that `ed25519:<base58>` stands for, masked in every log from here on.

    Both forms are read: seed and public key (64 bytes), or the seed alone. Raises InvalidKey for anything else, and
    if the public half is not that of the seed: such a key signs what no node accepts, or under another's name.
    """
    register_secret(text.strip())
    content = _decoded(text)
    if content is None or len(content) not in (_KEY_BYTES, 2 * _KEY_BYTES):
        raise InvalidKey("this is no NEAR private key", hint="it must be ed25519: and 64 bytes in base58")
    key = NearKey(content[:_KEY_BYTES])
    if content[_KEY_BYTES:] not in (b"", key.public_bytes):
        raise InvalidKey(
            "the two halves of this NEAR private key do not belong together",
            hint=f"its first half is the private key of {key.public_key}; copy the key again from where it was made",
        )
    register_secret(key.secret_key)
    register_secret(key.secret_key.removeprefix(_PREFIX))
    return key


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key in text form. Raises InvalidKey."""
    content = _decoded(text)
    if content is None or len(content) != _KEY_BYTES:
        raise InvalidKey("this is no NEAR public key", hint="it must be ed25519: and 32 bytes in base58")
    return content


def public_key_text(public_bytes: bytes) -> str:
    """`ed25519:` and the public key in base58."""
    return f"{_PREFIX}{to_base58(public_bytes)}"


def verify_signature(public_bytes: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` is that of the public key; False for nonsense."""
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def to_base58(content: bytes) -> str:
    """`content` in Bitcoin's base58, in which NEAR writes keys and hashes."""
    return base58.b58encode(content).decode("ascii")


def hash_bytes(text: str) -> bytes:
    """The 32 bytes of a hash in base58. Raises ValueError."""
    content = _base58_bytes(text)
    if content is None or len(content) != _KEY_BYTES:
        raise ValueError("this is no NEAR hash")
    return content


def is_account_id(text: str) -> bool:
    """Whether `text` can be the name of an account (nomicon, DataStructures/Account)."""
    return _ACCOUNT_ID.fullmatch(text) is not None


def load_credentials(path: Path) -> Credentials:
    """Account and key from a credentials file, as `near-cli` and its successors write it.

    Raises FileNotFoundError if there is none; UnusableCredentials if others may read it, it holds no key, or its
    public key is not that of its private key; InvalidKey as `parse_secret_key`.
    """
    try:
        found = _CredentialsFile.model_validate_json(_private_content(path))
    except ValidationError:
        hint = "it must be JSON with account_id, public_key and private_key, as near-cli writes it"
        raise UnusableCredentials(f"{path} does not hold NEAR credentials", hint=hint) from None
    key = parse_secret_key(found.private_key or found.secret_key)
    if found.public_key and found.public_key != key.public_key:
        hint = "restore the file from a copy: it was changed by hand"
        raise UnusableCredentials(f"the public key in {path} is not that of its private key", hint=hint)
    if not is_account_id(found.account_id):
        raise UnusableCredentials(f"{path} does not name a NEAR account", hint="account_id is like worker.testnet")
    return Credentials(found.account_id, key)


def _decoded(text: str) -> bytes | None:
    text = text.strip()
    if not text.startswith(_PREFIX):
        return None
    return _base58_bytes(text.removeprefix(_PREFIX))


def _base58_bytes(text: str) -> bytes | None:
    if len(text) > _MOST_TEXT or text != text.strip():
        return None
    try:
        return base58.b58decode(text)
    except ValueError:
        # The error would quote a character of the key.
        return None


def _private_content(path: Path) -> bytes:
    """What is in a file that nobody else can read. Raises FileNotFoundError, UnusableCredentials."""
    # Not blocking, in case the path is a pipe; the checks are on what was opened, not on what the path is by then.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableCredentials(f"{path} is not a file", hint="point it at the credentials file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UnusableCredentials(f"{path} can be used by others (mode {mode:04o})", hint=f"chmod 600 {path}")
        return os.read(descriptor, _MOST_FILE_BYTES)
    finally:
        os.close(descriptor)
