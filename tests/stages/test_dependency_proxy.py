"""The proxy of the container that fetches crates: the hosts it was told, as they are now, and not for ever."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.errors import Permanent
from millrace.settings import CompileSettings, Settings
from stages.compile.dependencies.proxy import SOCKET, DependencyProxy, dependency_proxy
from stages.compile.dependencies.request import BadRequest, parse_request
from stages.compile.dependencies.rules import RegistryRules, VendorLimits, registry_rules

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def upstream(answer: Answer) -> AsyncIterator[int]:
    """The port of a server on this machine."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await answer(reader, writer)
        except OSError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1000):
        writer.write(piece)
    await writer.drain()


async def ask(proxy: DependencyProxy, request: bytes, *, end: bool = True) -> bytes:
    """Everything that comes back for these bytes, once the proxy hangs up."""
    reader, writer = await asyncio.open_unix_connection(proxy.folder / SOCKET)
    writer.write(request)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def local(port: int) -> RegistryRules:
    return RegistryRules(hosts=(f"127.0.0.1:{port}",), allow_private=True)


def connect(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()


async def at(*addresses: str) -> list[str]:
    return list(addresses)


async def test_a_tunnel_to_an_allowed_host_carries_bytes_both_ways() -> None:
    async with upstream(echo) as port, dependency_proxy(local(port), VendorLimits()) as proxy:
        answer = await ask(proxy, connect(f"127.0.0.1:{port}") + b"hello" * 50_000)
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n" + b"hello" * 50_000
        assert proxy.carried_bytes == 2 * 250_000
        assert proxy.refused == []


async def test_a_plain_request_is_sent_on_alone_and_as_the_server_expects_it() -> None:
    """A second request behind the first, to another host, must not slip through."""
    heard = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.write_eof()
        heard += await reader.read()

    async with upstream(answer) as port, dependency_proxy(local(port), VendorLimits()) as proxy:
        head = f"GET http://127.0.0.1:{port}/index/config.json HTTP/1.1\r\n".encode()
        fields = b"Host: internal.example\r\nCookie: a\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        assert (await ask(proxy, head + fields + b"GET /secret HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok")
    assert heard == (
        b"GET /index/config.json HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\naccept: */*\r\n\r\n" % port
    )


@pytest.mark.parametrize(
    "request_",
    [
        connect("github.com:443"),
        connect("index.crates.io:80"),
        connect("index.crates.io.evil.example:443"),
        connect("169.254.169.254:80"),
        b"GET http://index.crates.io/config.json HTTP/1.1\r\n\r\n",
        b"GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\n\r\n",
    ],
)
async def test_every_other_host_is_refused_unasked_and_noted(request_: bytes) -> None:
    said: list[str] = []

    async def resolve(host: str) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    async with dependency_proxy(RegistryRules(), VendorLimits(), resolve=resolve, say=said.append) as proxy:
        assert (await ask(proxy, request_)).startswith(b"HTTP/1.1 403 ")
        assert (await ask(proxy, request_)).startswith(b"HTTP/1.1 403 ")
        (note,) = proxy.refused
        assert "not a host that crates come from" in note
        assert said == [f"refused: {note}"]


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.1",), ("169.254.169.254",), ("::1",), ("::ffff:127.0.0.1",), ("1.1.1.1", "192.168.1.1")],
)
async def test_an_allowed_name_at_a_private_address_is_refused(addresses: tuple[str, ...]) -> None:
    async with dependency_proxy(RegistryRules(), VendorLimits(), resolve=lambda host: at(*addresses)) as proxy:
        assert (await ask(proxy, connect("index.crates.io:443"))).startswith(b"HTTP/1.1 403 ")
        assert "not a public address" in proxy.refused[0]


async def test_a_name_is_looked_up_once_a_connection_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that is public when it is checked and private when it is used (DNS rebinding)."""
    looked_up: list[str] = []
    connected: list[tuple[str, int]] = []

    async def resolve(host: str) -> list[str]:
        looked_up.append(host)
        return ["93.184.215.14"] if len(looked_up) == 1 else ["127.0.0.1"]

    async def open_connection(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connected.append((host, port))
        raise ConnectionRefusedError

    async with dependency_proxy(RegistryRules(), VendorLimits(), resolve=resolve) as proxy:
        monkeypatch.setattr(asyncio, "open_connection", open_connection)
        assert (await ask(proxy, connect("index.crates.io:443"))).startswith(b"HTTP/1.1 502 ")
        assert connected == [("93.184.215.14", 443)]
        assert len(looked_up) == 1
        assert (await ask(proxy, connect("index.crates.io:443"))).startswith(b"HTTP/1.1 403 ")
        assert len(connected) == 1


async def test_more_bytes_than_allowed_end_the_connection_and_every_later_one() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    limits = VendorLimits(network_bytes=1_000_000)
    async with upstream(flood) as port, dependency_proxy(local(port), limits) as proxy:
        answer = await ask(proxy, connect(f"127.0.0.1:{port}"), end=False)
        assert 0 < len(answer) < 1_100_000
        assert proxy.refused == ["more than 1000000 bytes in all"]
        assert (await ask(proxy, connect(f"127.0.0.1:{port}"))).startswith(b"HTTP/1.1 403 ")


async def test_what_the_container_sends_counts_as_well() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            continue

    limits = VendorLimits(network_bytes=1_000_000)
    async with upstream(swallow) as port, dependency_proxy(local(port), limits) as proxy:
        await ask(proxy, connect(f"127.0.0.1:{port}") + bytes(2_000_000), end=False)
        assert proxy.carried_bytes < 1_100_000
        assert proxy.refused


async def test_a_flood_of_connections_is_turned_away() -> None:
    limits = VendorLimits(connections_at_once=3, connections=8)
    async with upstream(echo) as port, dependency_proxy(local(port), limits) as proxy:
        waiting = [await asyncio.open_unix_connection(proxy.folder / SOCKET) for _ in range(3)]
        for reader, writer in waiting:
            writer.write(connect(f"127.0.0.1:{port}"))
            await reader.readuntil(b"\r\n\r\n")
        assert await ask(proxy, connect(f"127.0.0.1:{port}")) == b""
        assert proxy.refused == ["too many connections at once"]
        for reader, writer in waiting:
            writer.write_eof()
            await reader.read()
            writer.close()
        answers = [await ask(proxy, connect(f"127.0.0.1:{port}")) for _ in range(5)]
        assert [bool(answer) for answer in answers] == [True] * 4 + [False]
        assert "more than 8 connections" in proxy.refused


async def test_a_connection_on_which_nothing_moves_is_closed() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    limits = VendorLimits(idle_seconds=0.05)
    async with upstream(silent) as port, dependency_proxy(local(port), limits) as proxy:
        assert (await ask(proxy, connect(f"127.0.0.1:{port}"), end=False)).startswith(b"HTTP/1.1 200 ")


async def test_only_one_way_has_to_move() -> None:
    """A long download during which the client says nothing is not idle."""

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(6):
            writer.write(b"x")
            await asyncio.sleep(0.25)

    limits = VendorLimits(idle_seconds=1.0)
    async with upstream(slowly) as port, dependency_proxy(local(port), limits) as proxy:
        assert (await ask(proxy, connect(f"127.0.0.1:{port}"), end=False)).endswith(b"\r\n\r\nxxxxxx")


async def test_a_head_without_an_end_is_refused() -> None:
    async with dependency_proxy(RegistryRules(), VendorLimits()) as proxy:
        assert b"403" not in (answer := await ask(proxy, b"CONNECT " + b"a" * 100_000, end=False))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
        assert len(proxy.refused) == 1


async def test_the_socket_lies_where_no_other_user_gets_and_goes_with_the_proxy(tmp_path: Path) -> None:
    async with dependency_proxy(RegistryRules(), VendorLimits(), folder=tmp_path) as proxy:
        assert proxy.folder.parent.parent == tmp_path
        assert stat.S_IMODE(os.stat(proxy.folder.parent).st_mode) == 0o700  # noqa: PTH116 ASYNC
        assert os.listdir(proxy.folder) == [SOCKET]  # noqa: PTH208
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_the_socket_may_lie_deeper_than_an_address_is_long(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with dependency_proxy(RegistryRules(), VendorLimits(), folder=deep) as proxy:
        assert os.listdir(proxy.folder) == [SOCKET]  # noqa: PTH208


def test_the_settings_make_the_rules() -> None:
    def rules(**compile_: Any) -> RegistryRules:
        return registry_rules(Settings(_env_file=None, compile=CompileSettings(**compile_)))

    assert rules() == RegistryRules()
    mirror = "sparse+https://crates.example:8443/index/"
    assert rules(registry_mirror=mirror).allowed == {"crates.example:8443"}
    assert rules(registry_mirror=mirror, registry_hosts=("files.example:443",)).allowed == {
        "crates.example:8443",
        "files.example:443",
    }
    with pytest.raises(Permanent, match="sparse"):
        rules(registry_mirror="https://crates.example/")


async def test_the_end_of_the_proxy_ends_what_is_open() -> None:
    async with upstream(echo) as port:
        async with dependency_proxy(local(port), VendorLimits()) as proxy:
            reader, writer = await asyncio.open_unix_connection(proxy.folder / SOCKET)
            writer.write(connect(f"127.0.0.1:{port}"))
            await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


def test_a_mirror_takes_the_place_of_crates_io() -> None:
    mirror = "sparse+http://mirror.example/crates/"
    assert RegistryRules(registry_mirror=mirror).allowed == {"mirror.example:80"}
    assert RegistryRules(registry_mirror=mirror, hosts=("files.example:443",)).allowed == {
        "mirror.example:80",
        "files.example:443",
    }
    assert RegistryRules(registry_mirror="sparse+https://[2001:db8::1]:8443/").allowed == {"[2001:db8::1]:8443"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"hosts": ("crates.io",)},
        {"hosts": ("*.crates.io:443",)},
        {"hosts": ("CRATES.io:443",)},
        {"registry_mirror": "https://mirror.example/"},
        {"registry_mirror": "sparse+https://mirror.example"},
        {"registry_mirror": "sparse+https://user:password@mirror.example/"},
        {"registry_mirror": 'sparse+https://mirror.example/"\nproxy="'},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RegistryRules.model_validate(wrong)


@pytest.mark.parametrize(
    "head",
    [
        b"POST http://a:80/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://a/ HTTP/1.1\r\n\r\n",
        b"GET http://user@a/ HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n folded: a\r\n\r\n",
        b"CONNECT a:0 HTTP/1.1\r\n\r\n",
        b"CONNECT a:65536 HTTP/1.1\r\n\r\n",
        b"CONNECT a HTTP/1.1\r\n\r\n",
        b"CONNECT a:443 \r\n\r\n",
        "CONNECT \u0430:443 HTTP/1.1\r\n\r\n".encode(),
        b"\r\n\r\n",
    ],
)
def test_what_is_no_request_for_a_proxy(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(head)


@given(st.binary(max_size=200) | st.text("CONETGHAD htp:/a.1\r\n[]", max_size=120).map(str.encode))
def test_any_bytes_are_a_request_or_a_bad_request(head: bytes) -> None:
    try:
        request = parse_request(head)
    except BadRequest:
        return
    assert request.authority == request.authority.lower()
    assert "\r" not in request.host
    if request.forwarded is not None:
        assert request.forwarded.count(b"\r\n\r\n") == 1
