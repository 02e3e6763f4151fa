"""NEAR's keys: two halves that must belong together, and files that are for us alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from millrace.redaction import redact
from protocols.near.keys import (
    Credentials,
    InvalidKey,
    NearKey,
    UnusableCredentials,
    hash_bytes,
    is_account_id,
    load_credentials,
    parse_public_key,
    parse_secret_key,
    to_base58,
    verify_signature,
)

# A key that the public worker's own tests carry: its second half is not the public key of its first.
MISMATCHED = "ed25519:3D4YudUahN1nawWvHfEKBGpmJLfbCTbvdXDJKqfLhQ98XewyWK4tEDWvmAYPZqcgz7qfkCEHyWD15m8JVVWJ3LXD"
# nearcore's own test vector for key files.
EXAMPLE = "ed25519:3D4YudUahN1nawWogh8pAKSj92sUNMdbZGjn7kERKzYoTy8tnFQuwoGUC51DowKqorvkr2pytJSnwuSbsNVfqygr"
EXAMPLE_PUBLIC = "ed25519:6DSjZ8mvsRZDvFqFxo8tCKePG96omXW7eVYVSySmDk8e"


def test_a_published_key_has_the_public_key_it_is_published_with() -> None:
    key = parse_secret_key(f" {EXAMPLE}\n")
    assert key.public_key == EXAMPLE_PUBLIC
    assert key.secret_key == EXAMPLE
    assert parse_public_key(EXAMPLE_PUBLIC) == key.public_bytes


def test_a_key_whose_halves_do_not_belong_together_is_refused() -> None:
    """The public worker's test key is one: what it signs verifies under no key that the text names."""
    with pytest.raises(InvalidKey, match="two halves") as caught:
        parse_secret_key(MISMATCHED)
    assert MISMATCHED.removeprefix("ed25519:") not in str(caught.value)


def test_a_seed_alone_is_a_key() -> None:
    key = NearKey.generate()
    assert parse_secret_key(f"ed25519:{to_base58(key.seed)}") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "secp256k1:" + EXAMPLE.removeprefix("ed25519:"),
        EXAMPLE.removeprefix("ed25519:"),
        EXAMPLE[:-1],
        EXAMPLE + "1",
        EXAMPLE.replace("3", "0", 1),
        EXAMPLE.replace("3", "é", 1),
        "ed25519: " + EXAMPLE.removeprefix("ed25519:"),
        "ed25519:" + "2" * 100_000,
    ],
)
def test_what_is_no_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        parse_secret_key(text)
    assert len(str(caught.value)) < 300
    assert "3D4Yud" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_is_masked_once_it_is_read_and_never_printed() -> None:
    key = NearKey.generate()
    parse_secret_key(key.secret_key)
    assert key.secret_key.removeprefix("ed25519:") not in redact(f"the key is {key.secret_key}")
    assert key.seed.hex() not in repr(key)
    assert str(key.seed) not in repr(key)


def test_a_signature_is_of_one_message_and_one_key() -> None:
    key = NearKey(b"\x07" * 32)
    signature = key.sign(b"message")
    assert verify_signature(key.public_bytes, b"message", signature)
    assert not verify_signature(key.public_bytes, b"massage", signature)
    assert not verify_signature(NearKey(b"\x08" * 32).public_bytes, b"message", signature)
    assert not verify_signature(b"short", b"message", signature)
    assert not verify_signature(key.public_bytes, b"message", b"short")


def test_hashes_are_32_bytes() -> None:
    assert hash_bytes(to_base58(bytes(range(32)))) == bytes(range(32))
    assert hash_bytes("1" * 32) == bytes(32)
    for text in ("", "1" * 31, "1" * 33, "0" * 32, "é" * 32, " " + "1" * 32):
        with pytest.raises(ValueError, match="no NEAR hash"):
            hash_bytes(text)


@pytest.mark.parametrize("text", ["worker.testnet", "a0", "a-b_c.d", "98" * 32, "outlayer.near"])
def test_names_of_accounts(text: str) -> None:
    assert is_account_id(text)


@pytest.mark.parametrize("text", ["", "a", "A.near", "a..b", ".near", "a.", "a--b", "é.near", "x" * 65, "a.near\n"])
def test_what_is_no_name_of_an_account(text: str) -> None:
    assert not is_account_id(text)


def write(path: Path, document: object, mode: int = 0o600) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", ["private_key", "secret_key"])
def test_a_credentials_file_of_either_tool_is_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "w.json", {"account_id": "worker.testnet", "public_key": EXAMPLE_PUBLIC, name: EXAMPLE})
    assert load_credentials(path) == Credentials("worker.testnet", parse_secret_key(EXAMPLE))


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{" * 10_000,
        {"account_id": "worker.testnet", "public_key": "ed25519:1", "private_key": EXAMPLE},
        {"account_id": "No Account", "private_key": EXAMPLE},
        {"private_key": EXAMPLE},
        {"account_id": "worker.testnet", "private_key": [EXAMPLE]},
    ],
)
def test_a_file_that_is_none_is_refused_without_quoting_it(tmp_path: Path, document: object) -> None:
    with pytest.raises(UnusableCredentials) as caught:
        load_credentials(write(tmp_path / "w.json", document))
    assert EXAMPLE not in str(caught.value)


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey):
        load_credentials(write(tmp_path / "w.json", {"account_id": "worker.testnet"}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "w.json", {"account_id": "worker.testnet", "private_key": EXAMPLE}, mode)
    with pytest.raises(UnusableCredentials, match="used by others") as caught:
        load_credentials(path)
    assert f"chmod 600 {path}" in caught.value.hint


def test_a_pipe_does_not_block_and_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UnusableCredentials, match="is not a file"):
        load_credentials(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        load_credentials(tmp_path / "none")
