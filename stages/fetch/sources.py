"""The folder with the archives of fetched commits: shared by this machine's flow runs, and kept within bounds."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from millrace.limits import MIB
from millrace.settings import Settings
from stages.fetch.git import FetchedSource, GitLimits, GitRules, fetch_repository

_KEPT_BYTES = 1024 * MIB
_ABANDONED_SECONDS = 3600.0
"""What a fetch works in is much younger than this, or its process was killed."""


class Sources:
    """Archives by their SHA-256; the folder is made when the first one comes."""

    def __init__(self, folder: Path, kept_bytes: int = _KEPT_BYTES) -> None:
        self._folder = folder
        self._kept_bytes = kept_bytes

    def path_of(self, sha256: str) -> Path:
        """Where the archive with that SHA-256 is, if it is here."""
        return self._folder / f"{sha256}.tar"

    def has(self, sha256: str) -> bool:
        """Whether it is here now."""
        return self.path_of(sha256).is_file()

    async def fetch(self, repo: str, commit: str, rules: GitRules, limits: GitLimits | None = None) -> FetchedSource:
        """Fetch a commit into the folder; raises as `fetch_repository`. Makes room first, oldest archives first."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room()
        fetched = await fetch_repository(repo, commit, rules=rules, limits=limits, into=self._folder)
        self.path_of(fetched.sha256).touch()
        return fetched

    def _make_room(self) -> None:
        for left in self._folder.glob("*millrace-git-*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
        kept = 0
        for size, path in self._newest_first():
            kept += size
            if kept > self._kept_bytes:
                path.unlink(missing_ok=True)

    def _newest_first(self) -> list[tuple[int, Path]]:
        found = []
        for path in self._folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        return [(size, path) for _, size, path in sorted(found, reverse=True)]


async def fetch_commit(repo: str, commit: str, *, sources: Sources, settings: Settings) -> FetchedSource:
    """The stage: fetch a commit from a host that the settings allow; raises as `fetch_repository`."""
    wanted = settings.compile
    rules = GitRules(
        hosts=wanted.hosts, allow_private=wanted.allow_private_hosts, allow_incomplete=wanted.allow_incomplete
    )
    return await sources.fetch(repo, commit, rules)
