"""A module from the URL that a stranger's request names: from public hosts alone, and only with the right hash."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import Declined, DeclineReason, JobFault, Transient
from millrace.settings import CompileSettings, Settings
from protocols.ipfs.content import Content, open_content
from stages.fetch.module import MOST_BYTES, Module, fetch_module

MODULE = b"\0asm\1\0\0\0"
DIGEST = hashlib.sha256(MODULE).hexdigest()


class Host:
    """A web server whose answers are set by path: status, headers, body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append((self.path, self.headers.get("host")))
                status, headers, body = host.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client had enough
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.answers["/m.wasm"] = (200, {}, MODULE)
    yield host
    host.server.shutdown()
    host.server.server_close()


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return open_content(Settings().ipfs, tmp_path)


async def fetch(url: str, content: Content, digest: str = DIGEST, *, private: bool = True, **more: Any) -> Module:
    settings = Settings(compile=CompileSettings(allow_private_hosts=private))
    return await fetch_module(url, digest, "wasm32-wasip1", content=content, settings=settings, **more)


async def test_a_module_is_kept_under_its_cid(host: Host, content: Content) -> None:
    module = await fetch(f"{host.url}/m.wasm", content)
    assert (module.sha256, module.size_bytes, module.seconds) == (DIGEST, len(MODULE), None)
    assert content.store.get(module.cid) == MODULE


@pytest.mark.parametrize("digest", [DIGEST.upper(), f"sha256:{DIGEST}"])
async def test_the_hash_may_be_written_in_its_usual_ways(host: Host, content: Content, digest: str) -> None:
    assert (await fetch(f"{host.url}/m.wasm", content, digest)).sha256 == DIGEST


@pytest.mark.parametrize("digest", ["0" * 64, "", "abc", DIGEST[:-1]])
async def test_other_bytes_than_the_request_names_are_not_kept(host: Host, content: Content, digest: str) -> None:
    with pytest.raises(JobFault):
        await fetch(f"{host.url}/m.wasm", content, digest)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, JobFault), (403, JobFault), (410, JobFault), (429, Transient), (500, Transient)]
)
async def test_what_is_not_there_is_the_jobs_fault_and_what_is_busy_is_not(
    host: Host, content: Content, status: int, kind: type[Exception]
) -> None:
    host.answers["/m.wasm"] = (status, {}, b"")
    with pytest.raises(kind):
        await fetch(f"{host.url}/m.wasm", content)


async def test_redirects_are_followed_a_few_times(host: Host, content: Content) -> None:
    for number in range(5):
        host.answers[f"/{number}"] = (302, {"location": f"/{number - 1}" if number else "/m.wasm"}, b"")
    assert (await fetch(f"{host.url}/2", content)).sha256 == DIGEST
    with pytest.raises(JobFault, match="redirects"):
        await fetch(f"{host.url}/4", content)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_module_without_end_is_cut_off(host: Host, content: Content, declared: bool) -> None:
    body = bytes(MOST_BYTES + 1)
    host.answers["/m.wasm"] = (200, {"content-length": str(len(body))} if declared else {}, body)
    with pytest.raises(Declined) as declined:
        await fetch(f"{host.url}/m.wasm", content)
    assert declined.value.reason is DeclineReason.too_big


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/m.wasm",
        "ftp://example.org/m.wasm",
        "file:///etc/shadow",
        "https://user:secret@example.org/m.wasm",
        "https://example.org:8443/m.wasm",
        "https:///m.wasm",
        "ipfs://bafy",
        "https://exa mple.org/",
        "https://[::1/",
        "h" * 3_000,
    ],
)
async def test_what_is_no_public_https_address_is_not_asked(content: Content, url: str) -> None:
    async def nobody(host: str) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    with pytest.raises(Declined) as declined:
        await fetch(url, content, private=False, resolve=nobody)
    assert declined.value.reason is DeclineReason.not_allowed
    assert "secret" not in str(declined.value)


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "0.0.0.0"])
async def test_a_name_of_a_private_address_is_not_asked(content: Content, ip: str) -> None:
    async def private(host: str) -> list[str]:
        return ["93.184.216.34", ip]

    with pytest.raises(Declined, match="not a public address"):
        await fetch("https://example.org/m.wasm", content, private=False, resolve=private)


async def test_what_was_checked_is_what_is_connected_to(host: Host, content: Content) -> None:
    """A name that means another address the next time it is asked for gains nothing."""
    asked: list[str] = []

    async def once(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"]

    port = host.server.server_port
    await fetch(f"http://modules.example:{port}/m.wasm", content, resolve=once)
    assert asked == ["modules.example"]
    assert host.asked == [("/m.wasm", f"modules.example:{port}")]


async def test_a_query_is_sent_and_not_told(host: Host, content: Content) -> None:
    host.answers["/m.wasm?key=secret"] = (200, {}, MODULE)
    module = await fetch(f"{host.url}/m.wasm?key=secret", content)
    assert "secret" not in module.source


async def test_a_host_that_cannot_be_reached_is_tried_again(content: Content) -> None:
    with pytest.raises(Transient):
        await fetch("http://127.0.0.1:9/m.wasm", content)
