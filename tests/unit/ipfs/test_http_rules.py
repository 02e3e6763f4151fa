"""Rules for talking to strangers over HTTP: which addresses, how long to wait, how much to read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from millrace.errors import Permanent
from protocols.ipfs.addresses import check_address, check_host, check_url
from protocols.ipfs.errors import ContentRefused
from protocols.ipfs.http_limits import read_capped, retry_after_seconds
from protocols.ipfs.kubo_address import daemon_multiaddr
from protocols.ipfs.pinata import uploads_host_of

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "9" * 400}, 3600.0),
        ({"Retry-After": "Tue, 14 Nov 99999999999999999999 22:14:20 GMT"}, None),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 +99999999999999999999"}, None),
        ({"X-RateLimit-Reset": "1700000030"}, 30.0),
        ({"X-RateLimit-Reset": "later"}, None),
        ({"Retry-After": "soon", "X-RateLimit-Reset": "1700000030"}, 30.0),
        ({"Retry-After": "7", "X-RateLimit-Reset": "1700000030"}, 7.0),
    ],
)
def test_the_wait_that_the_other_side_wants_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(httpx.Headers(headers), lambda: NOW) == seconds


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(ContentRefused, match="not a public address") as caught:
        check_address(address, "gateway.example")
    assert "ALLOW_PRIVATE_GATEWAYS" in caught.value.hint


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_a_public_address_passes(address: str) -> None:
    check_address(address, "gateway.example")


async def test_a_name_that_resolves_to_this_machine_is_refused() -> None:
    with pytest.raises(ContentRefused, match="not a public address"):
        await check_host("https://localhost:8443/base")


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example",
        "ftp://gateway.example",
        "gateway.example",
        "https://",
        "https://user:pass@gateway.example",
        "https://gateway.example?token=x",
        "https://gateway.example#x",
        "http://user:pass@gateway.example",
        "ftp://gateway.example/token",
        "https://gateway.example:port/token",
        "https://[::1/token",
    ],
)
def test_an_address_that_is_no_plain_https_url_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(Permanent) as caught:
        check_url(url, allow_private=False)
    assert "pass" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_http_passes_only_where_private_addresses_do() -> None:
    assert check_url("http://127.0.0.1:8080/", allow_private=True) == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("address", "multiaddr"),
    [
        ("/ip4/127.0.0.1/tcp/5001", "/ip4/127.0.0.1/tcp/5001"),
        ("http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001/http"),
        ("http://127.0.0.1", "/ip4/127.0.0.1/tcp/5001/http"),
        ("http://[::1]:5001/", "/ip6/::1/tcp/5001/http"),
        ("https://kubo.example", "/dns/kubo.example/tcp/443/https"),
    ],
)
def test_a_daemons_address_may_be_an_url(address: str, multiaddr: str) -> None:
    assert daemon_multiaddr(address) == multiaddr


@pytest.mark.parametrize(
    "address", ["kubo.example:5001", "http://", "http://h:99999", "http://[::1", "http://u:p@h", "http://h/api/v0"]
)
def test_a_daemons_address_that_is_neither_is_refused(address: str) -> None:
    with pytest.raises(Permanent, match="address"):
        daemon_multiaddr(address)


def test_uploads_go_to_the_uploads_host_beside_the_api() -> None:
    assert uploads_host_of("https://api.pinata.cloud") == "https://uploads.pinata.cloud"
    assert uploads_host_of("http://127.0.0.1:9") == "http://127.0.0.1:9"


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.taken += 1
            yield piece


async def test_a_body_is_read_up_to_its_cap_and_no_further() -> None:
    pieces = _Pieces(b"12345", b"12345", b"12345", b"12345")
    with pytest.raises(ContentRefused, match="more than 9 bytes"):
        await read_capped(httpx.Response(200, stream=pieces), 9)
    assert pieces.taken == 2
    assert await read_capped(httpx.Response(200, stream=_Pieces(b"12345", b"1234")), 9) == b"123451234"


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    pieces = _Pieces(b"1")
    with pytest.raises(ContentRefused, match="at most 9"):
        await read_capped(httpx.Response(200, headers={"Content-Length": "10"}, stream=pieces), 9)
    assert pieces.taken == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
async def test_a_compressed_body_is_refused(encoding: str) -> None:
    with pytest.raises(ContentRefused, match="compressed"):
        await read_capped(httpx.Response(200, headers={"Content-Encoding": encoding}, stream=_Pieces(b"1")), 9)


async def test_what_a_stranger_calls_its_compression_cannot_move_a_cursor() -> None:
    """h11 lets control characters in header values pass, and error texts are printed."""
    answer = httpx.Response(200, headers={"Content-Encoding": "\x1b]0;pwned\x07"}, stream=_Pieces(b"1"))
    with pytest.raises(ContentRefused) as caught:
        await read_capped(answer, 9)
    assert str(caught.value).isprintable()
