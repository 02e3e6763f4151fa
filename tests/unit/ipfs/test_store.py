"""The embedded store: true CIDs, whole files or none, and nothing read without a hash."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocols.ipfs.cid import CID, DAG_PB, IDENTITY, RAW
from protocols.ipfs.directory import import_directory, resolve_path
from protocols.ipfs.errors import (
    ContentUnavailable,
    InvalidBlock,
    InvalidCID,
    LimitExceeded,
    StoreFault,
    UnsupportedContent,
)
from protocols.ipfs.importer import import_blocks, import_file
from protocols.ipfs.profiles import PROFILES, V0, Profile
from protocols.ipfs.reader import ReadLimits, read_file
from protocols.ipfs.store import ContentStore
from protocols.ipfs.verified import Verified

LARGE = random.Random(3).randbytes(600_000)
STRANGE = Profile("somebody's own", 1, True, chunk_bytes=1000, width=7)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content", clock=lambda: 1_700_000_000.0)


def file_of(store: ContentStore, cid: CID) -> Path:
    [path] = [path for path in store.root.glob("??/*") if path.suffix in (".raw", ".dag")]
    assert path.name.startswith(path.stem)
    assert store.has(cid)
    return path


@pytest.mark.parametrize("profile", [*PROFILES.values(), STRANGE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "small", "large"])
def test_content_comes_back_under_the_true_cid_of_its_profile(
    store: ContentStore, content: bytes, profile: Profile
) -> None:
    cid = store.put(content, profile)
    assert cid == import_file(content, profile).cid
    assert store.get(cid) == content
    assert store.get(str(cid)) == content
    assert store.get(cid.to_v1()) == content


def test_the_note_beside_the_content_says_what_it_is(store: ContentStore) -> None:
    cid = store.put(LARGE, V0, pinned=True)
    note = json.loads(file_of(store, cid).with_suffix(".dag.json").read_text())
    assert note == {
        "cid": str(cid),
        "profile": "v0-256k-174",
        "size": len(LARGE),
        "created": 1_700_000_000.0,
        "pinned": True,
    }


def test_what_is_not_there_is_unavailable(store: ContentStore) -> None:
    cid = import_file(b"never put").cid
    assert not store.has(cid)
    with pytest.raises(ContentUnavailable):
        store.get(cid)
    with pytest.raises(ContentUnavailable):
        store.pin(cid)


def test_what_is_no_cid_is_refused(store: ContentStore) -> None:
    with pytest.raises(InvalidCID):
        store.get("../../etc/passwd")


def test_damaged_content_is_set_aside_and_can_be_put_again(store: ContentStore) -> None:
    cid = store.put(LARGE)
    path = file_of(store, cid)
    path.write_bytes(LARGE[:-1] + b"?")
    with pytest.raises(ContentUnavailable, match="damaged"):
        store.get(cid)
    assert not store.has(cid)
    assert path.with_suffix(".dag.damaged").exists()
    assert store.put(LARGE) == cid
    assert store.get(cid) == LARGE


def test_putting_over_damaged_content_repairs_it(store: ContentStore) -> None:
    cid = store.put(b"content")
    file_of(store, cid).write_bytes(b"damage")
    store.put(b"content")
    assert store.get(cid) == b"content"


def test_a_damaged_note_is_found_too(store: ContentStore) -> None:
    cid = store.put(b"content")
    file_of(store, cid).with_suffix(".raw.json").write_text("{")
    with pytest.raises(ContentUnavailable, match="damaged"):
        store.get(cid)
    store.put(b"content")
    assert store.get(cid) == b"content"


def test_a_write_that_fails_leaves_nothing_behind(store: ContentStore) -> None:
    def blocks_that_end(cid: CID) -> bytes:
        raise ContentUnavailable("the stream broke")

    with pytest.raises(ContentUnavailable):
        store.put_dag(CID.of(b"", DAG_PB), blocks_that_end)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "content").write_text("a file where the folder should be")
    with pytest.raises(StoreFault):
        ContentStore(tmp_path / "content").put(b"x")


def test_content_larger_than_wanted_is_not_read(store: ContentStore) -> None:
    for profile in (V0, STRANGE):
        cid = store.put(LARGE, profile)
        assert store.get(cid, max_bytes=len(LARGE)) == LARGE
        with pytest.raises(LimitExceeded):
            store.get(cid, max_bytes=len(LARGE) - 1)


def test_a_raw_block_and_a_file_of_one_multihash_are_kept_apart(store: ContentStore) -> None:
    """Keyed by the multihash alone, the bytes of a node would be answered where the file was asked for."""
    file_cid = store.put(b"text", V0)
    node = import_blocks(b"text", V0)[1][file_cid]
    block_cid = store.put(node)
    assert block_cid.multihash == file_cid.multihash
    assert (store.get(file_cid), store.get(block_cid)) == (b"text", node)


@pytest.mark.parametrize("profile", [*PROFILES.values(), STRANGE], ids=lambda profile: profile.name)
def test_verified_content_of_any_dialect_is_kept_under_its_cid(store: ContentStore, profile: Profile) -> None:
    root, blocks = import_blocks(LARGE, profile)
    store.keep(Verified(root, LARGE, {cid.multihash: block for cid, block in blocks.items()}))
    assert store.get(root) == LARGE
    regenerated = store.blocks(root)
    assert b"".join(read_file(root, regenerated, ReadLimits())) == LARGE
    assert all(regenerated(cid) == block for cid, block in blocks.items())


def test_a_directory_is_kept_with_all_that_is_in_it(store: ContentStore) -> None:
    blocks: dict[CID, bytes] = {}
    root = import_directory({"a": {"b": LARGE}}, blocks.__setitem__).cid
    store.put_dag(root, blocks.__getitem__)
    found = resolve_path(root, "a/b", store.blocks(root))
    assert b"".join(read_file(found, store.blocks(root), ReadLimits())) == LARGE
    with pytest.raises(UnsupportedContent, match="directory"):
        store.get(root)


def test_a_damaged_car_is_set_aside(store: ContentStore) -> None:
    cid = store.put(LARGE, STRANGE)
    path = file_of(store, cid)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ContentUnavailable, match="damaged"):
        store.blocks(cid)
    assert not store.has(cid)


def test_a_dag_with_a_wrong_block_is_not_kept(store: ContentStore) -> None:
    root = CID.of(b"", DAG_PB)
    with pytest.raises(InvalidBlock):
        store.put_dag(root, lambda _: b"wrong")
    assert not store.has(root)


def test_an_inline_cid_is_always_there(store: ContentStore) -> None:
    cid = CID(1, RAW, IDENTITY, b"inline")
    assert store.has(cid)
    assert store.get(cid) == b"inline"


def test_putting_again_pins_and_never_unpins(store: ContentStore) -> None:
    cid = store.put(b"x")
    assert not store.entry(cid).pinned
    store.put(b"x", pinned=True)
    store.put(b"x")
    assert store.entry(cid).pinned


def test_many_writers_of_one_content_leave_one_sound_file(store: ContentStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        cids = set(pool.map(lambda _: store.put(LARGE), range(24)))
    [cid] = cids
    assert store.get(cid) == LARGE
    assert list(store.root.rglob(".writing-*")) == []
