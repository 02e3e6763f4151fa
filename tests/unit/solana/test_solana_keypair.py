from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from solders.keypair import Keypair

from millrace.redaction import MASK, redact
from protocols.solana.keypair import UnusableKeypair, load_or_create_keypair


def write(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_missing_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "worker.json"
    keypair, created = load_or_create_keypair(path)
    again, created_again = load_or_create_keypair(path)
    assert (created, created_again) == (True, False)
    assert keypair == again
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["worker.json"]


def test_the_file_is_what_the_solana_tools_write(tmp_path: Path) -> None:
    keypair, _ = load_or_create_keypair(tmp_path / "id.json")
    assert json.loads((tmp_path / "id.json").read_text()) == list(bytes(keypair))


def test_an_existing_key_is_taken_as_it_is(tmp_path: Path) -> None:
    keypair = Keypair()
    path = write(tmp_path / "id.json", json.dumps(list(bytes(keypair))))
    assert load_or_create_keypair(path) == (keypair, False)


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: load_or_create_keypair(tmp_path / "id.json"), range(8)))
    assert len({str(keypair.pubkey()) for keypair, _ in results}) == 1
    assert sum(created for _, created in results) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_use_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "id.json", json.dumps(list(bytes(Keypair()))), mode)
    with pytest.raises(UnusableKeypair) as caught:
        load_or_create_keypair(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2, 3]",
        "{}",
        json.dumps([256] * 64),
        json.dumps([True] * 64),
        json.dumps(list(bytes(64))),
        json.dumps([*list(bytes(Keypair()))[:63], 300]),
        '["4242"]',
        "4242" * 100,
        "[" * 4_000,
    ],
)
def test_a_file_that_holds_no_key_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "id.json", content)
    with pytest.raises(UnusableKeypair) as caught:
        load_or_create_keypair(path)
    assert str(caught.value) == (
        f"{path} does not hold a keypair (it must be a JSON array of 64 integers, as solana-keygen writes it)"
    )
    assert path.read_text() == content


def test_a_key_whose_public_half_is_anothers_is_refused(tmp_path: Path) -> None:
    mixed = [*list(bytes(Keypair()))[:32], *list(bytes(Keypair()))[32:]]
    with pytest.raises(UnusableKeypair):
        load_or_create_keypair(write(tmp_path / "id.json", json.dumps(mixed)))


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableKeypair, match="is not a file"):
        load_or_create_keypair(tmp_path)


def test_a_loaded_key_is_masked_wherever_text_is_redacted(tmp_path: Path) -> None:
    keypair, _ = load_or_create_keypair(tmp_path / "id.json")
    assert redact(f"key {keypair}!") == f"key {MASK}!"
    assert redact((tmp_path / "id.json").read_text()) == MASK


def test_a_key_in_utf_16_is_refused(tmp_path: Path) -> None:
    """Pins a UnicodeDecodeError, which quotes the file: the JSON parser takes UTF-16, and what came after did not."""
    path = tmp_path / "id.json"
    path.write_bytes(json.dumps(list(bytes(Keypair()))).encode("utf-16"))
    path.chmod(0o600)
    with pytest.raises(UnusableKeypair):
        load_or_create_keypair(path)
