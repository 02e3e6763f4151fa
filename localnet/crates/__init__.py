"""A local crate registry: a sparse index and the archives, with crates made in code, able to misbehave.

with CratesLocalnet() as registry:
    registry.publish(Crate("adder", files={"src/lib.rs": b"pub fn add(a: u32, b: u32) -> u32 { a + b }"}))
    index = registry.index  # sparse+http://…, which cargo asks if told to replace crates.io by it
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from localnet.crates.crate import Crate, index_path
from localnet.crates.samples import SAMPLES
from localnet.crates.server import CRATES_FAULTS, Server
from localnet.faults import Fault

__all__ = ["CRATES_FAULTS", "SAMPLES", "Crate", "CratesLocalnet", "Fault", "index_path"]


class CratesLocalnet:
    """A registry on 127.0.0.1; a context manager.

    Arguments: `port` 0 takes a free one; `certificate`, a PEM file with its key, makes it https. Attributes: `url`;
    `index`, as cargo's configuration names it; `faults`, by `config`, `index` and `download`; `requests`, every request
    line so far. Raises OSError if the port is taken.
    """

    def __init__(self, *, port: int = 0, certificate: Path | None = None) -> None:
        self._server = Server(port, certificate)
        self.url = self._server.url
        self.index = f"sparse+{self.url}/index/"
        self.faults = self._server.faults
        self.requests = self._server.requests

    def publish(self, *crates: Crate) -> None:
        """Have these versions too, each in the place of one with the same number."""
        for crate in crates:
            self._server.publish(crate)

    def remove(self, name: str) -> None:
        """Have no version of that crate any more."""
        self._server.remove(name)

    def downloads_at(self, url: str) -> None:
        """Say in the index that the archives are at another address, as crates.io does."""
        self._server.downloads_at = url

    def wait_for(self, line: str, seconds: float = 30.0) -> None:
        """Return once that request was made, such as `GET /index/config.json`. Raises TimeoutError."""
        self._server.wait_for(line, seconds)

    def start(self) -> Self:
        """Begin to answer; returns itself."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Close the port and end every connection."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
