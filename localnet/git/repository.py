"""A bare repository written object by object, without Git: so that also what Git would refuse to write can be in it.

Source: https://git-scm.com/docs/gitformat-loose, https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

FILE, PROGRAM, LINK, SUBMODULE, DIRECTORY = "100644", "100755", "120000", "160000", "40000"

Content = bytes | tuple[str, bytes]
"""A file's bytes, or a mode and what goes with it: a link's target, a submodule's commit in hex."""

_AUTHOR = "Localnet <localnet@localhost> {seconds} +0000"
_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tbare = true
[uploadpack]
\tallowFilter = true
"""


class Repository:
    """The bare repository in `folder`, made if it is not there; its SHAs depend on nothing but what is committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seconds = 1_700_000_000
        if not (folder / "HEAD").exists():
            for part in ("objects/pack", "refs/heads", "refs/tags"):
                (folder / part).mkdir(parents=True)
            (folder / "HEAD").write_text("ref: refs/heads/main\n")
            (folder / "config").write_text(_CONFIG)

    def commit(self, files: Mapping[str, Content], *, branch: str = "main", message: str = "Commit") -> str:
        """The SHA of a new commit on `branch` that holds exactly `files`, by path."""
        return self.commit_tree(self._tree_of(files), branch=branch, message=message)

    def commit_tree(self, tree: str, *, branch: str = "main", message: str = "Commit") -> str:
        """The SHA of a new commit on `branch` with that tree."""
        ref = self.folder / "refs" / "heads" / branch
        parent = f"parent {ref.read_text().strip()}\n" if ref.exists() else ""
        self._seconds += 1
        author = _AUTHOR.format(seconds=self._seconds)
        text = f"tree {tree}\n{parent}author {author}\ncommitter {author}\n\n{message}\n"
        commit = self.write("commit", text.encode())
        self.point(f"refs/heads/{branch}", commit)
        return commit

    def tag(self, name: str, commit: str, *, annotated: bool = False) -> str:
        """Name a commit; the SHA that the tag has, which for an annotated one is its own."""
        target = commit
        if annotated:
            tagger = _AUTHOR.format(seconds=self._seconds)
            text = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\nTag\n"
            target = self.write("tag", text.encode())
        self.point(f"refs/tags/{name}", target)
        return target

    def point(self, ref: str, sha: str) -> None:
        """Let a ref name that object."""
        path = self.folder / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{sha}\n")

    def tree(self, entries: Iterable[tuple[str, bytes, str]]) -> str:
        """The SHA of a tree with just these modes, names and SHAs in this order, however wrong they are."""
        return self.write("tree", b"".join(b"%s %s\0%s" % (m.encode(), n, bytes.fromhex(s)) for m, n, s in entries))

    def blob(self, content: bytes) -> str:
        """The SHA of a file's content."""
        return self.write("blob", content)

    def write(self, kind: str, content: bytes, *, name: str = "") -> str:
        """The SHA of an object; `name` puts it under another one than its own, as a damaged host would."""
        whole = b"%s %d\0" % (kind.encode(), len(content)) + content
        sha = name or hashlib.sha1(whole).hexdigest()  # noqa: S324  what Git names things by
        path = self.folder / "objects" / sha[:2] / sha[2:]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(whole, 1))
        return sha

    def _tree_of(self, files: Mapping[str, Content]) -> str:
        here: list[tuple[str, bytes, str]] = []
        below: dict[str, dict[str, Content]] = {}
        for path, content in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = content
                continue
            mode, data = content if isinstance(content, tuple) else (FILE, content)
            here.append((mode, name.encode(), data.decode() if mode == SUBMODULE else self.blob(data)))
        here.extend((DIRECTORY, name.encode(), self._tree_of(inner)) for name, inner in below.items())
        # Git sorts a directory as if its name ended in a slash.
        return self.tree(sorted(here, key=lambda entry: entry[1] + (b"/" if entry[0] == DIRECTORY else b"")))
