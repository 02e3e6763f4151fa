"""The store's quota: what goes, what stays, and what several processes may do to one folder at a time."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable, StoreFault, StoreFull
from protocols.ipfs.importer import import_file
from protocols.ipfs.room import MARKS, TEMPORARY_PREFIX
from protocols.ipfs.store import ContentStore, Entry

KIB = 1024
QUOTA = 116 * KIB
BLOCK = 20 * KIB


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content", quota_bytes=QUOTA, clock=Clock())


def content(number: int, size: int = BLOCK) -> bytes:
    return random.Random(number).randbytes(size)


def used_bytes(store: ContentStore) -> int:
    """What the store takes on the disk, as `du` counts it."""
    return sum(path.stat().st_blocks * 512 for path in store.root.glob("??/*"))


def test_what_was_not_used_for_longest_goes_first(store: ContentStore) -> None:
    cids = [store.put(content(number)) for number in range(4)]
    store.get(cids[0])
    fifth = store.put(content(4))
    assert [store.has(cid) for cid in (*cids, fifth)] == [True, False, True, True, True]
    assert used_bytes(store) <= QUOTA


def test_pinned_content_never_goes(store: ContentStore) -> None:
    pinned = [store.put(content(number), pinned=True) for number in range(2)]
    for number in range(2, 30):
        store.put(content(number))
        assert used_bytes(store) <= QUOTA
    assert all(store.get(cid) == content(number) for number, cid in enumerate(pinned))


def test_what_is_unpinned_may_go(store: ContentStore) -> None:
    cid = store.put(content(0), pinned=True)
    store.unpin(cid)
    for number in range(1, 6):
        store.put(content(number))
    assert not store.has(cid)
    with pytest.raises(ContentUnavailable):
        store.get(cid)


def test_pinned_content_that_fills_the_quota_is_a_clear_error_and_evicts_nothing(store: ContentStore) -> None:
    for number in range(4):
        store.put(content(number), pinned=True)
    unpinned = store.put(content(9, 10 * KIB))
    with pytest.raises(StoreFull, match="pinned") as caught:
        store.put(content(4, 30 * KIB))
    assert "MILLRACE_IPFS__QUOTA_BYTES" in caught.value.hint
    assert isinstance(caught.value, StoreFault)
    assert store.has(unpinned)
    store.put(content(5, 12 * KIB))
    assert not store.has(unpinned)


def test_small_content_counts_as_the_disk_counts_it(tmp_path: Path) -> None:
    """A file of ten bytes takes a block, and its note another: by length, a store took twenty times more."""
    store = ContentStore(tmp_path / "content", quota_bytes=QUOTA, clock=Clock())
    cids = [store.put(content(number, 10)) for number in range(60)]
    assert used_bytes(store) <= QUOTA
    assert store.has(cids[-1])
    assert not store.has(cids[0])


@pytest.mark.parametrize("what", ["written", "refused"])
def test_a_store_full_of_pins_is_not_searched_at_each_write(
    store: ContentStore, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 5,000 pins each write took 0.1 s, reading every note to find the little that may go."""
    for number in range(4):
        store.put(content(number), pinned=True)
    unpinned = [store.put(content(number, 10)) for number in range(10, 14)]
    looked_at: list[Path] = []
    entry_at = ContentStore._entry_at

    def counting(path: Path) -> Entry:
        looked_at.append(path)
        return entry_at(path)

    monkeypatch.setattr(ContentStore, "_entry_at", staticmethod(counting))
    if what == "written":
        store.put(content(20, 10))
        assert not store.has(unpinned[0])
    else:
        for _ in range(2):
            with pytest.raises(StoreFull):
                store.put(content(21), pinned=True)
        assert store.has(unpinned[-1])
    assert {path.stem for path in looked_at} <= {store._path(cid).stem for cid in unpinned}


def test_an_operator_who_makes_room_by_hand_need_not_wait_for_long(store: ContentStore) -> None:
    """Pins removed with `rm` were still counted for an hour, and every write refused."""
    pinned = [store.put(content(number), pinned=True) for number in range(4)]
    with pytest.raises(StoreFull):
        store.put(content(5), pinned=True)
    for cid in pinned:
        store._path(cid).unlink()
    clock = store._clock
    assert isinstance(clock, Clock)
    clock.seconds += 61.0
    assert store.has(store.put(content(5), pinned=True))


@pytest.mark.parametrize("killed", ["before the mark was gone", "before it was pinned", "before it had a mark"])
def test_marks_that_a_killed_writer_left_wrong_cost_no_pin_and_keep_nothing_for_ever(
    store: ContentStore, killed: str
) -> None:
    """The note says what is pinned; the mark only tells where to look."""
    pinned = store.put(content(0), pinned=True)
    unpinned = store.put(content(1))
    if killed == "before the mark was gone":
        store._room.may_go(store._path(pinned))
    elif killed == "before it was pinned":
        store._room.must_stay(store._path(unpinned))
        (store.root / ".usage").unlink()
    else:
        shutil.rmtree(store.root / MARKS)
    for number in range(2, 10):
        store.put(content(number))
    assert store.get(pinned) == content(0)
    assert not store.has(unpinned)


def test_content_pinned_after_it_was_evicted_stays(store: ContentStore) -> None:
    """The mark of what was there before would have it evicted again."""
    cid = store.put(content(0))
    store._path(cid).unlink()
    store.put(content(0), pinned=True)
    assert not (store.root / MARKS / store._path(cid).name).exists()


def test_content_larger_than_the_quota_is_refused(store: ContentStore) -> None:
    with pytest.raises(StoreFull):
        store.put(content(0, QUOTA + 1))


def test_a_directory_tree_of_blocks_counts_as_well(store: ContentStore) -> None:
    cids = [store.put(content(number)) for number in range(4)]
    big = import_file(content(7, 40 * KIB))
    store.put(content(7, 40 * KIB))
    assert store.has(big.cid)
    assert not store.has(cids[0])


def test_a_reader_that_has_begun_reads_on_while_its_content_is_evicted(store: ContentStore) -> None:
    cid = store.put(content(0))
    with store._opened(cid) as file:
        first = file.read(10)
        for number in range(1, 8):
            store.put(content(number))
        assert not store.has(cid)
        assert first + file.read() == content(0)


def test_content_that_goes_between_two_looks_is_only_not_here(store: ContentStore) -> None:
    """An eviction is no damage: nothing may be set aside for it."""
    cid = store.put(content(0))
    store._path(cid).unlink()
    with pytest.raises(ContentUnavailable, match="not in the store"):
        store.get(cid)
    assert list(store.root.rglob("*.damaged")) == []


def test_damaged_content_goes_before_any_other(store: ContentStore) -> None:
    cids = [store.put(content(number)) for number in range(4)]
    store._path(cids[3]).write_bytes(bytes(BLOCK))
    with pytest.raises(ContentUnavailable):
        store.get(cids[3])
    store.put(content(5))
    assert list(store.root.rglob("*.damaged")) == []
    assert all(store.has(cid) for cid in cids[:3])


def test_what_a_killed_writer_left_is_removed_when_room_is_counted(store: ContentStore) -> None:
    cid = store.put(content(0))
    folder = store._path(cid).parent
    (folder / f"{TEMPORARY_PREFIX}x").write_bytes(bytes(90 * KIB))
    (folder / "orphan.raw.json").write_text("{}")
    (store.root / ".usage").unlink()
    store.put(content(1))
    assert not list(folder.glob(f"{TEMPORARY_PREFIX}*"))
    assert not (folder / "orphan.raw.json").exists()
    assert store.has(cid)


@pytest.mark.parametrize(
    "usage", ["", "{", '{"total_bytes": 0, "counted_at": 0}', '{"total_bytes": 99999999, "counted_at": 1e99}']
)
def test_a_sum_that_is_missing_torn_or_old_is_counted_anew(store: ContentStore, usage: str) -> None:
    for number in range(4):
        store.put(content(number))
    (store.root / ".usage").write_text(usage)
    store.put(content(4))
    assert used_bytes(store) <= QUOTA


def test_a_sum_that_is_too_low_cannot_stay_so(store: ContentStore) -> None:
    """Somebody puts files there by hand: within the hour it is noticed."""
    store.put(content(0))
    stray = store._path(import_file(b"stray").cid)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(bytes(95 * KIB))
    clock = store._clock
    assert isinstance(clock, Clock)
    clock.seconds += 4000.0
    store.put(content(1))
    assert used_bytes(store) <= QUOTA


def _fill(root: Path, seed: int) -> None:
    store = ContentStore(root, quota_bytes=QUOTA)
    for number in range(15):
        mine = content(seed * 1000 + number, 8 * KIB)
        cid = store.put(mine)
        try:
            assert store.get(cid) == mine
        except ContentUnavailable:
            continue  # another process needed the room


def test_several_processes_stay_within_one_quota(tmp_path: Path) -> None:
    root = tmp_path / "content"
    pinned = ContentStore(root, quota_bytes=QUOTA).put(b"pinned", pinned=True)
    fork = multiprocessing.get_context("spawn")
    fillers = [fork.Process(target=_fill, args=(root, seed)) for seed in range(3)]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join(60)
    assert [filler.exitcode for filler in fillers] == [0, 0, 0]
    store = ContentStore(root, quota_bytes=QUOTA)
    assert store.get(pinned) == b"pinned"
    assert used_bytes(store) <= QUOTA


def _fill_for_ever(root: Path) -> None:
    store = ContentStore(root, quota_bytes=QUOTA)
    for number in range(1 << 20):
        store.put(content(number, 8 * KIB))


def test_a_killed_writer_leaves_no_lock_and_no_wrong_sum(tmp_path: Path) -> None:
    root = tmp_path / "content"
    store = ContentStore(root, quota_bytes=QUOTA)
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        before = set(root.glob("??/*.raw"))
        writer = context.Process(target=_fill_for_ever, args=(root,))
        writer.start()
        deadline = time.monotonic() + 30
        while set(root.glob("??/*.raw")) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        cids: list[CID] = [store.put(content(number)) for number in range(3)]
        assert all(store.get(cid) for cid in cids)
        assert used_bytes(store) <= QUOTA
        assert not list(root.rglob("*.damaged"))
