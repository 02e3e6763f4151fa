"""Plain UnixFS directories: build one, and find a file in one by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, TypeAlias

from protocols.ipfs.cid import CID, DAG_PB
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.errors import InvalidDag, UnsupportedContent
from protocols.ipfs.importer import Imported, Put, import_file
from protocols.ipfs.profiles import V1, Profile
from protocols.ipfs.reader import BlockOf, directory_links, verified
from protocols.ipfs.unixfs import encode_directory

MAX_DIRECTORY_BLOCK_BYTES = 256 * 1024
"""Above this every importer makes a sharded directory instead, which we do not write."""

Entries: TypeAlias = "Mapping[str, bytes | BinaryIO | Entries]"
"""A directory's entries by name: a file's bytes, or the entries of a directory inside it."""


def import_directory(entries: Entries, put: Put, profile: Profile = V1) -> Imported:
    """Import a tree of files, handing every block to `put`.

    Raises UnsupportedContent if a directory is so large that it would have to be sharded, InvalidDag for a name
    that no directory may have.
    """
    links, file_bytes = [], 0
    for name in sorted(entries, key=str.encode):
        check_name(name)
        entry = entries[name]
        child = (
            import_directory(entry, put, profile) if isinstance(entry, Mapping) else import_file(entry, profile, put)
        )
        links.append(Link(child.cid, name, child.dag_bytes))
        file_bytes += child.file_bytes
    block = encode_node(links, encode_directory())
    if len(block) > MAX_DIRECTORY_BLOCK_BYTES:
        raise UnsupportedContent(f"a directory of {len(links)} entries would have to be sharded, which is not done")
    cid = CID.of(block, DAG_PB, profile.cid_version)
    put(cid, block)
    return Imported(cid, len(block) + sum(link.dag_bytes for link in links), file_bytes)


def resolve_path(root: CID, path: str, block_of: BlockOf) -> CID:
    """The CID of what `path`, names joined by `/`, leads to from the directory `root`.

    Raises UnsupportedContent if a step is no plain directory or has no such entry, InvalidDag for bad names.
    """
    cid = root
    for name in path.split("/") if path else ():
        check_name(name)
        links = directory_links(cid, verified(cid, block_of))
        names = [link.name for link in links]
        if len(set(names)) != len(names):
            raise InvalidDag(f"{cid} is a directory with two entries of one name")
        if name not in names:
            raise UnsupportedContent(f"{cid} has no entry {name!r}")
        cid = links[names.index(name)].cid
    return cid


def check_name(name: str) -> None:
    """Raise InvalidDag if `name` could lead outside its directory or nowhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidDag(f"{name!r} is no name for a directory's entry")
