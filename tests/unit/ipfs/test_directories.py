"""Plain directories: built as others build them, and resolved without being led astray."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ipfs.cid import CID, DAG_PB
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.directory import import_directory, resolve_path
from protocols.ipfs.errors import InvalidDag, UnsupportedContent
from protocols.ipfs.importer import import_file
from protocols.ipfs.profiles import V0
from protocols.ipfs.protobuf import varint_field
from protocols.ipfs.reader import ReadLimits, read_file
from protocols.ipfs.unixfs import Kind, encode_directory

EMPTY_DIRECTORY_V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
entry_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))


def test_the_empty_directory_has_the_cid_that_everybody_knows() -> None:
    assert str(import_directory({}, lambda cid, block: None, V0).cid) == EMPTY_DIRECTORY_V0


@given(st.dictionaries(entry_names, st.binary(max_size=20), min_size=1, max_size=6))
def test_every_file_of_a_directory_is_found_by_its_path(files: dict[str, bytes]) -> None:
    blocks: dict[CID, bytes] = {}
    root = import_directory({"inside": files, "beside": b""}, blocks.__setitem__)
    for name, content in files.items():
        cid = resolve_path(root.cid, f"inside/{name}", blocks.__getitem__)
        assert b"".join(read_file(cid, blocks.__getitem__, ReadLimits())) == content
    assert root.file_bytes == sum(map(len, files.values()))


def test_the_order_in_which_entries_are_given_does_not_matter() -> None:
    forth = import_directory({"a": b"1", "é": b"2", "z": b"3"}, lambda cid, block: None)
    back = import_directory({"z": b"3", "é": b"2", "a": b"1"}, lambda cid, block: None)
    assert forth == back


def test_an_empty_path_leads_to_the_root() -> None:
    root = import_file(b"x").cid
    assert resolve_path(root, "", {}.__getitem__) == root


@pytest.mark.parametrize("path", ["..", "a/../b", ".", "/a", "a//b", "a\0b"])
def test_a_path_that_could_lead_outside_is_refused(path: str) -> None:
    blocks: dict[CID, bytes] = {}
    root = import_directory({"a": {"b": b""}}, blocks.__setitem__).cid
    with pytest.raises(InvalidDag):
        resolve_path(root, path, blocks.__getitem__)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0"])
def test_a_name_that_no_directory_may_have_is_not_written(name: str) -> None:
    with pytest.raises(InvalidDag):
        import_directory({name: b""}, lambda cid, block: None)


def test_a_missing_entry_and_a_file_in_the_way_are_told() -> None:
    blocks: dict[CID, bytes] = {}
    root = import_directory({"file": b"x"}, blocks.__setitem__).cid
    with pytest.raises(UnsupportedContent, match="no entry"):
        resolve_path(root, "other", blocks.__getitem__)
    with pytest.raises(UnsupportedContent, match="not a directory"):
        resolve_path(root, "file/below", blocks.__getitem__)


def test_two_entries_of_one_name_are_refused() -> None:
    leaf = import_file(b"x").cid
    block = encode_node([Link(leaf, "a", 1), Link(leaf, "a", 1)], encode_directory())
    with pytest.raises(InvalidDag, match="two entries"):
        resolve_path(CID.of(block, DAG_PB), "a", lambda _: block)


def test_a_sharded_directory_is_refused_by_that_name() -> None:
    block = encode_node([], varint_field(1, Kind.hamt_directory))
    with pytest.raises(UnsupportedContent, match="hamt") as caught:
        resolve_path(CID.of(block, DAG_PB), "a", lambda _: block)
    assert "HAMT" in caught.value.hint


def test_a_directory_too_large_for_one_block_is_not_written() -> None:
    with pytest.raises(UnsupportedContent, match="sharded"):
        import_directory({f"entry number {number}": b"" for number in range(5000)}, lambda cid, block: None)
