"""Git's smart HTTP on 127.0.0.1: `git http-backend` behind our own server, and what a bad host does instead.

Source: https://git-scm.com/docs/git-http-backend, https://git-scm.com/docs/protocol-v2
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from localnet.faults import Fault, Faults
from localnet.http_server import Connection, StandInServer

GIT_FAULTS = ("status", "hang", "reset", "slow", "cut", "endless", "redirect", "unauthorized", "endless_pack")
"""`redirect` sends the client elsewhere; `unauthorized` asks it for a password, as GitHub does for what is not there;
`endless_pack` answers a fetch with a pack that never ends. For the others see `localnet.faults`."""

_PIECE_BYTES = 60_000
_LARGEST_BODY_BYTES = 64 * 1024 * 1024
_BACKEND_SECONDS = 120


@functools.cache
def http_backend() -> str | None:
    """Where Git's HTTP backend is; None if it is not installed."""
    git = shutil.which("git")
    if git is None:
        return None
    folder = subprocess.run([git, "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    return shutil.which("git-http-backend", path=folder)


class Server(StandInServer):
    """Serves the repositories in `folder`. Raises RuntimeError if there is nothing to serve them with."""

    def __init__(self, folder: Path, port: int, certificate: Path | None = None) -> None:
        found = http_backend()
        if found is None:
            raise RuntimeError("git http-backend is not installed")
        super().__init__(port, _Connection, "localnet-git", certificate=certificate)
        self.backend = found
        self.folder = folder
        self.faults = Faults(GIT_FAULTS)
        self.requests: list[tuple[str, str]] = []
        self.redirect_to = f"{self.url}/redirected"


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        self._serve("info/refs", b"")

    def on_post(self, body: bytes) -> None:
        plain = body
        if self.headers.get("content-encoding") == "gzip":
            plain = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, _LARGEST_BODY_BYTES)
        self._serve("fetch" if b"command=fetch" in plain else "ls-refs", body)

    def _serve(self, method: str, body: bytes) -> None:
        self.server.requests.append((f"{self.command} {self.path}", self.headers.get("authorization", "")))
        fault = self.server.faults.take(method)
        if fault is None:
            return self._backend(body)
        if fault.kind == "redirect":
            return self.reply(302, b"", {"location": self.server.redirect_to + self.path}, "text/plain")
        if fault.kind == "unauthorized":
            return self.reply(401, b"", {"www-authenticate": 'Basic realm="localnet"'}, "text/plain")
        if fault.kind == "endless_pack":
            return self._endless_pack()
        if fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
            return self._backend(body)
        if fault.kind == "cut":
            return self._backend(body, fault)
        return self.misbehave(fault, {"error": "localnet was asked to fail"})

    def _backend(self, body: bytes, fault: Fault | None = None) -> None:
        """The answer of `git http-backend`, a CGI program."""
        url = urlsplit(self.path)
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "GIT_PROJECT_ROOT": str(self.server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        try:
            done = subprocess.run(
                [self.server.backend], input=body, env=environment, capture_output=True, timeout=_BACKEND_SECONDS
            )
        except subprocess.TimeoutExpired:
            return self.reply(504, b"git http-backend took too long", content_type="text/plain")
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
        # What it says in Git's own protocol, such as that it lacks a commit, is an answer although it then ends with 1.
        status = int(headers.pop("Status", "200" if headers else "500").split()[0])
        content_type = headers.pop("Content-Type", "text/plain")
        headers.pop("Content-Length", None)
        return self.reply(status, answer, headers, content_type, fault=fault)

    def _endless_pack(self) -> None:
        """A fetch's answer: a pack with one file of a terabyte, sent for as long as the client takes it."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "application/x-git-upload-pack-result")
        self.end_headers()
        self.wfile.write(_line(b"packfile\n"))
        for piece in _pack_of_noise():
            if self.server.stopping.is_set():
                return
            self.wfile.write(_line(b"\x01" + piece))  # side band 1 carries the pack


def _line(content: bytes) -> bytes:
    """A pkt-line."""
    return b"%04x" % (len(content) + 4) + content


def _pack_of_noise() -> Iterator[bytes]:
    """A pack whose only object, a file, does not end within any limit and does not compress."""
    size = 1 << 40
    header = bytearray([0x30 | 0x80 | (size & 0x0F)])  # type 3, a blob, and the lowest four bits of its size
    size >>= 4
    while size:
        header.append((size & 0x7F) | (0x80 if size > 0x7F else 0))
        size >>= 7
    yield b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes(header)
    stream = zlib.compressobj(0)
    noise = hashlib.shake_128(b"localnet").digest(_PIECE_BYTES)
    while True:
        packed = stream.compress(noise)
        for at in range(0, len(packed), _PIECE_BYTES):
            yield packed[at : at + _PIECE_BYTES]
