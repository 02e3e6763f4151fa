"""A local Git host: repositories over smart HTTP, with commits no honest tool would make, able to misbehave.

with GitLocalnet(folder) as host:
    repository = host.repository("alice/tool")
    commit = repository.commit({"src/main.rs": b"fn main() {}"})
    url = host.url_of(repository)
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from localnet.faults import Fault
from localnet.git.repository import DIRECTORY, FILE, LINK, PROGRAM, SUBMODULE, Content, Repository
from localnet.git.server import GIT_FAULTS, Server, http_backend

__all__ = [
    "DIRECTORY", "FILE", "GIT_FAULTS", "LINK", "PROGRAM", "SUBMODULE",
    "Content", "Fault", "GitLocalnet", "Repository", "http_backend",
]  # fmt: skip


class GitLocalnet:
    """A host for the repositories in `folder`, on 127.0.0.1; a context manager.

    Arguments: `port` 0 takes a free one; `certificate`, a PEM file with its key, makes it https. Attributes: `url`;
    `faults`, by `info/refs`, `ls-refs` and `fetch`; `requests`, every request line so far with the credentials that
    came with it. Raises OSError if the port is taken, RuntimeError if Git's HTTP backend is not installed.
    """

    def __init__(self, folder: Path, *, port: int = 0, certificate: Path | None = None) -> None:
        self.folder = folder
        self._server = Server(folder, port, certificate)
        self.url = self._server.url
        self.faults = self._server.faults
        self.requests = self._server.requests

    def repository(self, name: str) -> Repository:
        """The repository called `name`, such as `alice/tool`, which is made if it is not there."""
        return Repository(self.folder / name)

    def url_of(self, repository: Repository) -> str:
        """Where clients find it."""
        return f"{self.url}/{repository.folder.relative_to(self.folder).as_posix()}"

    def redirect_to(self, url: str) -> None:
        """Where the fault `redirect` sends clients; the path asked for is put behind it."""
        self._server.redirect_to = url

    def start(self) -> Self:
        """Begin to answer; returns itself."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Close the port and end every connection and every process of Git's."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
