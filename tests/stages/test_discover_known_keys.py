from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from stages.discover.known_keys import KEY_BYTES, KnownKeys

KEYS = st.lists(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES).map(Pubkey.from_bytes), unique=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@given(st.lists(KEYS, max_size=4))
def test_every_key_added_is_known_now_and_after_a_restart(folder: Path, additions: list[list[Pubkey]]) -> None:
    path = folder / "all.keys"
    path.unlink(missing_ok=True)
    known = KnownKeys(path)
    for keys in additions:
        known.add(keys)
    everything = {key for keys in additions for key in keys}
    for reopened in (known, KnownKeys(path)):
        assert len(reopened) == len(everything)
        assert all(key in reopened for key in everything)
    assert path.exists() == bool(everything)


@given(KEYS.filter(len), KEYS, st.data())
def test_a_torn_write_costs_only_what_was_being_written(
    folder: Path, before: list[Pubkey], after: list[Pubkey], data: st.DataObject
) -> None:
    path = folder / "torn.keys"
    path.unlink(missing_ok=True)
    KnownKeys(path).add(before)
    torn = data.draw(st.binary(min_size=1, max_size=KEY_BYTES - 1))
    with path.open("ab") as file:
        file.write(torn)
    reopened = KnownKeys(path)
    assert len(reopened) == len(before)
    reopened.add(after)
    again = KnownKeys(path)
    assert all(key in again for key in (*before, *after))
    assert len(again) == len({*before, *after})


def test_two_processes_may_add_to_one_file(tmp_path: Path) -> None:
    one, two = KnownKeys(tmp_path / "keys"), KnownKeys(tmp_path / "keys")
    first, second = Pubkey.from_bytes(b"1" * 32), Pubkey.from_bytes(b"2" * 32)
    one.add([first])
    two.add([second])
    assert len(KnownKeys(tmp_path / "keys")) == 2
