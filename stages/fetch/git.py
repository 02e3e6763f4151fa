"""Fetch a commit of a Git repository as one tar, without running, filtering or writing anything that is in it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Declined, DeclineReason, JobFault, Transient
from stages.fetch.repository.address import Resolve, parse_address, pin, system_resolve
from stages.fetch.repository.archive import check_links, write_tar
from stages.fetch.repository.limits import GitLimits, GitRules
from stages.fetch.repository.objects import FILE, LINK, PROGRAM, SUBMODULE, Entry, Objects
from stages.fetch.repository.process import Git

__all__ = ["FetchedSource", "GitLimits", "GitRules", "fetch_repository"]

_FULL = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")
_NAME = re.compile(r"(?![-+/.])[A-Za-z0-9._/+-]{1,255}", re.ASCII)
_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")


class FetchedSource(BaseModel):
    """The files of one commit."""

    model_config = ConfigDict(frozen=True)

    repo: str = Field(description="The address that was asked")
    asked: str = Field(description="The commit as it was asked for: a SHA, the beginning of one, a tag or a branch")
    commit: str = Field(description="Its full SHA-1; what the archive holds was verified against it")
    sha256: str = Field(description="Of the archive, in hex; the same for the same commit everywhere")
    files: int = Field(description="Regular files and links")
    tree_bytes: int = Field(description="Of all files together, unpacked")
    received_bytes: int = Field(description="Of the pack that came over the network")
    archive_bytes: int
    left_out: tuple[str, ...] = Field(default=(), description="Submodules, and files of which only LFS pointers came")
    path: Path | None = Field(default=None, description="Where the archive lies, if it was to lie in a folder")
    archive: bytes = Field(default=b"", repr=False, description="The tar itself, if it was not to lie in a folder")


async def fetch_repository(
    repo: str,
    commit: str,
    *,
    rules: GitRules | None = None,
    limits: GitLimits | None = None,
    into: Path | None = None,
    resolve: Resolve = system_resolve,
) -> FetchedSource:
    """Fetch the tree of `commit` (full or short SHA, tag or branch) of the repository at the URL `repo`.

    The archive is a tar with nothing but directories, regular files and links that stay inside; it is returned, or
    written as `<sha256>.tar` in the folder `into`. The objects are read as they are stored: no checkout, hence no
    hook, filter or line-ending conversion, and no path of the repository's on this machine. A tag comes before a branch
    and both before a short SHA. A host may serve, by its SHA, a commit that was only ever pushed to a fork.

    Raises Declined: not_allowed for an address that is not to be asked, a redirect, names and links that lead
    elsewhere; too_big beyond `limits`; unsupported for submodules and LFS, and where Git is missing or too old.
    JobFault for an unknown commit, a repository that is not there or is damaged. Transient if the network fails or
    `limits.wall_seconds` pass.
    """
    rules, limits = rules or GitRules(), limits or GitLimits()
    address = parse_address(repo, rules)
    if not _NAME.fullmatch(commit) or ".." in commit:
        raise JobFault("the commit is not a SHA-1, tag or branch", hint="A-Z a-z 0-9 . _ / + - and no '..'")
    try:
        async with asyncio.timeout(limits.wall_seconds):
            pinned = await pin(address, rules, resolve)
            with tempfile.TemporaryDirectory(prefix="millrace-git-", dir=into) as folder:
                git = Git(Path(folder, "source"), address.url, pinned, rules, limits)
                await git.check_version()
                received = 0
                sha = commit.lower() if _FULL.fullmatch(commit.lower()) else await _named(git, commit)
                if sha is None:
                    # Its own repository: what is fetched to search in must not be mistaken for the source.
                    searched = Git(Path(folder, "search"), address.url, pinned, rules, limits)
                    sha = await _short(searched, commit.lower())
                    received = searched.pack_bytes()
                await git.run(*_FETCH, "--depth=1", "origin", f"{sha}:refs/millrace/source")
                async with Objects(git, limits) as objects:
                    entries = await objects.tree_of(sha)
                received += git.pack_bytes()
                packed = await asyncio.to_thread(_packed, entries, into, rules)
        return FetchedSource(repo=address.url, asked=commit, commit=sha, received_bytes=received, **packed)
    except TimeoutError:
        raise Transient(
            f"{address.url} was not fetched within {limits.wall_seconds:g} s", hint="a slow host, or a large repository"
        ) from None


async def _named(git: Git, name: str) -> str | None:
    """The commit that a tag or else a branch has now, as Git's own order is; None if it could be a short SHA only."""
    wanted = [name] if name.startswith("refs/") else [f"refs/tags/{name}", f"refs/heads/{name}"]
    output = await git.run("ls-remote", "--quiet", "origin", *wanted, *(f"{ref}^{{}}" for ref in wanted))
    found: dict[str, str] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        sha, _, ref = line.partition("\t")
        if _FULL.fullmatch(sha):
            found[ref] = sha
    for ref in wanted:
        if ref in found:
            return found.get(f"{ref}^{{}}", found[ref])  # an annotated tag's commit
    if _SHORT.fullmatch(name.lower()):
        return None
    raise JobFault(f"there is no tag or branch {name!r}", hint="was it pushed, and to this repository?")


async def _short(git: Git, prefix: str) -> str:
    """The one commit on a branch or tag whose SHA begins with `prefix`: all are fetched for it, without their trees."""
    refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    await git.run(*_FETCH, "--filter=tree:0", "origin", *refs)
    found = (await git.run("rev-parse", f"--disambiguate={prefix}")).decode().split()
    # Annotated tags are there too, and trees and files if the host does not know the filter.
    commits = [sha for sha in found if (await git.run("cat-file", "-t", sha)).strip() == b"commit"]
    if len(commits) == 1:
        return commits[0]
    if commits:
        raise JobFault(f"{prefix} is the beginning of {len(commits)} commits", hint="give more of the SHA")
    raise JobFault(f"no commit on a branch or tag begins with {prefix}", hint="give the whole SHA, or was it pushed?")


def _packed(entries: list[Entry], into: Path | None, rules: GitRules) -> dict[str, Any]:
    """The archive made of `entries` and what is to be said of it, if they are such as we keep."""
    left_out = tuple(sorted(entry.path for entry in entries if entry.kind == SUBMODULE or entry.lfs_pointer))
    if left_out and not rules.allow_incomplete:
        raise Declined(
            f"the repository needs submodules or LFS files: {', '.join(left_out[:3])}",
            reason=DeclineReason.unsupported,
            hint="neither is fetched; rules may allow to do without them",
        )
    check_links(entries)
    archive = write_tar(entries)
    digest = hashlib.sha256(archive).hexdigest()
    path = None if into is None else _keep(archive, into / f"{digest}.tar")
    files = [entry for entry in entries if entry.kind in (FILE, PROGRAM, LINK)]
    return {
        "sha256": digest,
        "files": len(files),
        "tree_bytes": sum(len(entry.content) for entry in files),
        "archive_bytes": len(archive),
        "left_out": left_out,
        "path": path,
        "archive": archive if into is None else b"",
    }


def _keep(archive: bytes, path: Path) -> Path:
    """Written beside its place and renamed, so that nobody finds half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".millrace-git-", delete=False) as file:
        file.write(archive)
    return Path(file.name).replace(path)
