"""A crate registry's HTTP: a sparse index and the archives, able to misbehave.

Source: https://doc.rust-lang.org/cargo/reference/registry-index.html#sparse-protocol
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from localnet.crates.crate import Crate, index_file, index_path
from localnet.faults import Fault, Faults
from localnet.http_server import Connection, StandInServer

CRATES_FAULTS = ("status", "hang", "reset", "slow", "cut", "endless", "other_json", "gzip_bomb", "corrupt")
"""`corrupt` answers with one byte changed. For the others see `localnet.faults`. They are added for `config`, `index`
and `download`."""

_INDEX, _DOWNLOADS = "/index/", "/crates/"


class Server(StandInServer):
    """Serves what has been published so far."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        super().__init__(port, _Connection, "localnet-crates", certificate=certificate)
        self.faults = Faults(CRATES_FAULTS)
        self.requests: list[str] = []
        self.downloads_at = self.url
        self._crates: dict[str, list[Crate]] = {}
        self._removed: set[str] = set()
        self._lock = threading.Lock()
        self._asked = threading.Condition()

    def publish(self, crate: Crate) -> None:
        """Have one more version, in the place of one with the same number."""
        with self._lock:
            versions = self._crates.setdefault(crate.name, [])
            versions[:] = [*(other for other in versions if other.version != crate.version), crate]
            self._removed.discard(crate.name)

    def remove(self, name: str) -> None:
        """Have no version of the crate any more: the index says that it is gone."""
        with self._lock:
            self._crates.pop(name, None)
            self._removed.add(name)

    def note(self, line: str) -> None:
        """Remember that this was asked for."""
        with self._asked:
            self.requests.append(line)
            self._asked.notify_all()

    def wait_for(self, line: str, seconds: float) -> None:
        """Return once this was asked for. Raises TimeoutError."""
        with self._asked:
            if not self._asked.wait_for(lambda: line in self.requests, seconds):
                raise TimeoutError(f"nobody asked for {line} within {seconds:g} s")

    def in_index(self, path: str) -> tuple[int, bytes]:
        """The status and the body for a file of the index."""
        if path == "config.json":
            return 200, f'{{"dl":"{self.downloads_at}{_DOWNLOADS}{{crate}}/{{version}}/download","api":null}}'.encode()
        with self._lock:
            for name, versions in self._crates.items():
                if index_path(name) == path:
                    return 200, index_file(versions)
            return (410 if any(index_path(name) == path for name in self._removed) else 404), b""

    def download(self, name: str, version: str) -> bytes | None:
        """The archive of that crate, None if there is none."""
        with self._lock:
            found = [crate for crate in self._crates.get(name, []) if crate.version == version]
            return found[0].archive() if found else None


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.note(f"{self.command} {path}")
        if path.startswith(_INDEX):
            name = path.removeprefix(_INDEX)
            status, body = self.server.in_index(name)
            return self._answer("config" if name == "config.json" else "index", status, body, "text/plain")
        match path.removeprefix(_DOWNLOADS).split("/"):
            case [name, version, "download"] if path.startswith(_DOWNLOADS):
                archive = self.server.download(name, version)
                status = 404 if archive is None else 200
                return self._answer("download", status, archive or b"", "application/gzip")
        return self.reply(404, b"", content_type="text/plain")

    def on_post(self, body: bytes) -> None:
        self.server.note(f"{self.command} {self.path}")
        self.reply(405, b"", content_type="text/plain")

    def _answer(self, method: str, status: int, body: bytes, content_type: str) -> None:
        fault = self.server.faults.take(method)
        if fault is not None and fault.kind not in ("slow", "cut", "corrupt"):
            return self.misbehave(fault, {"errors": [{"detail": "localnet was asked to fail"}]})
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if status == 200 and self.headers.get("if-none-match") == etag:
            # Not by `reply`: this answer has no body, and says nothing of one.
            self.send_response(304)
            self.send_header("etag", etag)
            return self.end_headers()
        headers = {"etag": etag} if status == 200 else {}
        return self.reply(status, _spoilt(body, fault), headers, content_type, fault=fault)


def _is(fault: Fault | None, kind: str) -> bool:
    return fault is not None and fault.kind == kind


def _spoilt(body: bytes, fault: Fault | None) -> bytes:
    if not _is(fault, "corrupt") or not body:
        return body
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
