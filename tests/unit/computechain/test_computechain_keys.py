from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.redaction import MASK, redact
from protocols.computechain import bech32
from protocols.computechain.bech32 import InvalidAddress
from protocols.computechain.keys import (
    VALIDATOR_PREFIX,
    ComputeKey,
    InvalidKey,
    address_of,
    hash160,
    verify_signature,
)
from protocols.computechain.keystore import Keystore, UnusableKey

KEY = ComputeKey(b"\x01" * 32)
PUBLIC = "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"
ADDRESS = "cpc10xcqpzrky6eff2g52qdye53xkk9jxkvr2hadde"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_the_networks_vectors() -> None:
    assert (KEY.public_key, KEY.address) == (PUBLIC, ADDRESS)
    assert address_of(PUBLIC, VALIDATOR_PREFIX) == "cpcvalcons10xcqpzrky6eff2g52qdye53xkk9jxkvrqc9056"


def test_ripemd_160_is_there_whatever_openssl_has() -> None:
    """hash160 of the well-known public key of the number 1."""
    one = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    assert hash160(one).hex() == "751e76e8199196d454941c45d1b3a323f1433bd6"


@given(st.binary(max_size=40), st.sampled_from(["cpc", "cpcvalcons", "a"]))
def test_what_is_encoded_decodes_to_the_same(payload: bytes, prefix: str) -> None:
    text = bech32.encode(prefix, payload)
    assert bech32.decode(text) == (prefix, payload)
    assert bech32.decode(text.upper()) == (prefix, payload)


@given(st.integers(0, len(ADDRESS) - 1), st.characters(codec="ascii"))
def test_one_wrong_character_is_always_noticed(place: int, character: str) -> None:
    wrong = ADDRESS[:place] + character + ADDRESS[place + 1 :]
    if wrong.lower() == ADDRESS and wrong in (wrong.lower(), wrong.upper()):
        return
    with pytest.raises(InvalidAddress):
        bech32.decode(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "cpc",
        "cpc1",
        "cpc1a2b3c4d5e6f7g8h9i0j",  # the public documents' sample
        "1qqqqqqqq",
        ADDRESS.replace("cpc", "Cpc"),
        f"{ADDRESS}\n",
        "a1lqfn3a",  # bech32m, BIP-350
        "x" * 91,
    ],
)
def test_what_is_no_address_is_refused_with_its_text_made_printable(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        bech32.decode(text)
    assert "\n" not in caught.value.message


@given(st.binary(min_size=32, max_size=32))
def test_signatures_are_deterministic_low_and_verify(digest: bytes) -> None:
    signature = KEY.sign(digest)
    assert signature == KEY.sign(digest)
    assert int(signature[64:], 16) <= ORDER // 2
    assert verify_signature(PUBLIC, digest, signature)
    high = signature[:64] + f"{ORDER - int(signature[64:], 16):064x}"
    assert verify_signature(PUBLIC, digest, high), "the node takes both"
    assert not verify_signature(PUBLIC, bytes(31) + bytes([digest[31] ^ 1]), signature)


@pytest.mark.parametrize("nonsense", ["", "zz", "00" * 64, "ff" * 64, "0" * 127])
def test_nonsense_is_no_signature(nonsense: str) -> None:
    assert not verify_signature(PUBLIC, bytes(32), nonsense)
    assert not verify_signature(nonsense, bytes(32), KEY.sign(bytes(32)))


@pytest.mark.parametrize("private", [bytes(32), b"\xff" * 32, b"\x01" * 31, ORDER.to_bytes(32)])
def test_what_cannot_be_a_private_key_is_refused_without_showing_it(private: bytes) -> None:
    with pytest.raises(InvalidKey) as caught:
        ComputeKey(private)
    assert private.hex() not in str(caught.value)


def test_a_key_does_not_print_its_secret() -> None:
    assert KEY.private_bytes.hex() not in repr(KEY)
    assert str(KEY.private_bytes) not in repr(KEY)


def test_the_file_is_what_the_networks_command_line_writes(tmp_path: Path) -> None:
    store = Keystore(tmp_path / "keys", clock=lambda: datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    store.import_key("worker", "01" * 32)
    path = tmp_path / "keys" / "worker.json"
    expected = {
        "name": "worker",
        "address": ADDRESS,
        "public_key": PUBLIC,
        "private_key": "01" * 32,
        "created_at": "2026-03-04T05:06:07Z",
    }
    assert path.read_text() == json.dumps(expected, indent=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [child.name for child in path.parent.iterdir()] == ["worker.json"]


def test_a_file_that_the_networks_command_line_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "alice.json"
    content = {"name": "alice", "address": ADDRESS, "public_key": PUBLIC, "private_key": "01" * 32, "created_at": "x"}
    path.write_text(json.dumps(content, indent=2))
    path.chmod(0o600)
    assert Keystore(tmp_path).load("alice") == KEY
    assert [info.address for info in Keystore(tmp_path).list()] == [ADDRESS]


def test_no_key_is_ever_overwritten(tmp_path: Path) -> None:
    store = Keystore(tmp_path)
    first = store.add("worker")
    with pytest.raises(UnusableKey, match="already"):
        store.add("worker")
    assert store.load("worker") == first


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", "a\nb", "-n", ".hidden", "x" * 65, "ä", "a b"])
def test_a_name_is_no_way_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnusableKey, match="cannot be a key's name"):
        Keystore(tmp_path / "keys").add(name)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("{}", 0o600, "does not hold a key"),
        ("[" * 5_000, 0o600, "does not hold a key"),
        (
            json.dumps({"name": "k", "address": "a", "public_key": "p", "private_key": "12"}),
            0o600,
            "does not hold a key",
        ),
        (
            json.dumps({"name": "k", "address": "cpc1x", "public_key": PUBLIC, "private_key": "01" * 32}),
            0o600,
            "is not that of its key",
        ),
        ("{}", 0o644, "can be used by others"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: str, mode: int, said: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(UnusableKey, match=said) as caught:
        Keystore(tmp_path).load("k")
    assert "01" * 32 not in str(caught.value)


def test_a_missing_key_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UnusableKey) as caught:
        Keystore(tmp_path).load("worker")
    assert "millrace keys computechain add worker" in caught.value.hint


def test_a_loaded_key_is_masked_wherever_it_turns_up(tmp_path: Path) -> None:
    key = Keystore(tmp_path).add("masked")
    assert redact(f"private_key={key.private_bytes.hex()}") == f"private_key={MASK}"
