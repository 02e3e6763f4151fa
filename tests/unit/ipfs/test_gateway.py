"""Gateways: believed only what hashes prove, and told apart by what they did wrong."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import MillraceError, Permanent
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID, DAG_PB, RAW
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.directory import import_directory
from protocols.ipfs.errors import (
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    UnsupportedContent,
)
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.importer import import_blocks, import_file
from protocols.ipfs.profiles import PROFILES, Profile
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.standing import Standings
from protocols.ipfs.unixfs import encode_file

SMALL = b"print('hello')\n"
LARGE = random.Random(5).randbytes(700_000)
STRANGE = Profile("somebody's own", 1, True, chunk_bytes=50_000, width=4)
LIMITS = ReadLimits(max_bytes=1 << 20)
SECONDS = 5.0


class Asked:
    """A gateway of the localnet as tests ask it."""

    def __init__(self, network: IpfsLocalnet, client: httpx.AsyncClient, service: str) -> None:
        url = {"gateway": network.gateway_url, "legacy_gateway": network.legacy_gateway_url}[service]
        self.standings = Standings(clock=lambda: 1_700_000_000.0)
        self.service = network.services[service]
        self.gateway = Gateway(url, client, allow_private=True, standings=self.standings, clock=lambda: 1_700_000_000.0)

    @property
    def banned(self) -> str:
        return self.standings.of(self.gateway.name).banned

    async def fetch(self, cid: CID, limits: ReadLimits = LIMITS, seconds: float = SECONDS) -> bytes:
        return (await self.gateway.fetch(cid, limits, seconds)).content


@pytest.fixture(params=["gateway", "legacy_gateway"])
def either(network: IpfsLocalnet, client: httpx.AsyncClient, request: pytest.FixtureRequest) -> Asked:
    return Asked(network, client, request.param)


@pytest.fixture
def trustless(network: IpfsLocalnet, client: httpx.AsyncClient) -> Asked:
    return Asked(network, client, "gateway")


@pytest.fixture
def legacy(network: IpfsLocalnet, client: httpx.AsyncClient) -> Asked:
    return Asked(network, client, "legacy_gateway")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_content_of_every_known_profile_is_fetched_from_either_kind(
    network: IpfsLocalnet, either: Asked, content: bytes, profile: Profile
) -> None:
    assert await either.fetch(network.store.add(content, profile)) == content


async def test_content_of_an_unknown_dialect_is_proven_by_its_blocks_and_only_by_them(
    network: IpfsLocalnet, trustless: Asked, legacy: Asked
) -> None:
    cid = network.store.add(LARGE, STRANGE)
    assert await trustless.fetch(cid) == LARGE
    with pytest.raises(ContentUnavailable, match="no known way"):
        await legacy.fetch(cid)
    assert legacy.banned == ""


async def test_blocks_are_asked_for_in_query_and_header_and_uncompressed(
    network: IpfsLocalnet, trustless: Asked
) -> None:
    await trustless.fetch(CID.parse(network.add(SMALL)))
    await trustless.fetch(CID.parse(network.add(LARGE)))
    (_, raw, raw_headers), (_, car, car_headers) = trustless.service.requests
    assert raw.endswith("?format=raw")
    assert raw_headers["accept"] == "application/vnd.ipld.raw"
    assert car.endswith("?format=car&dag-scope=entity")
    assert car_headers["accept"].startswith("application/vnd.ipld.car; version=1")
    assert {raw_headers["accept-encoding"], car_headers["accept-encoding"]} == {"identity"}


async def test_a_strict_gateway_that_refuses_formats_is_asked_for_the_plain_file(
    network: IpfsLocalnet, either: Asked
) -> None:
    either.service.faults = Faults(status=406, times=1)
    assert await either.fetch(CID.parse(network.add(LARGE))) == LARGE
    assert [path.partition("?")[2] for _, path, _ in either.service.requests] == ["format=car&dag-scope=entity", ""]


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["raw", "car"])
async def test_wrong_bytes_are_refused_and_their_sender_is_not_asked_again(
    network: IpfsLocalnet, trustless: Asked, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    trustless.service.faults = Faults(wrong_bytes=True, times=1)
    with pytest.raises(InvalidBlock):
        await trustless.fetch(cid)
    with pytest.raises(ContentRefused, match="not asked any more"):
        await trustless.fetch(cid)
    assert len(trustless.service.requests) == 1


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "text/html", "image/png"])
async def test_an_error_page_of_any_type_with_a_wrong_status_is_no_lie(
    network: IpfsLocalnet, either: Asked, kind: str
) -> None:
    page = base64.b64encode(b'{"error": "too many requests"}').decode()
    either.service.faults = Faults(answer_base64=page, answer_type=kind, times=1)
    cid = CID.parse(network.add(SMALL))
    with pytest.raises(ContentUnavailable, match="instead of the content"):
        await either.fetch(cid)
    assert (either.banned, either.standings.of(either.gateway.name).errors) == ("", 1)
    assert await either.fetch(cid) == SMALL


@pytest.mark.parametrize("kind", ["application/vnd.ipld.raw", "application/octet-stream"])
async def test_wrong_bytes_that_claim_to_be_the_block_are_a_lie(
    network: IpfsLocalnet, either: Asked, kind: str
) -> None:
    either.service.faults = Faults(answer_base64=base64.b64encode(b"else").decode(), answer_type=kind)
    with pytest.raises(InvalidBlock):
        await either.fetch(CID.parse(network.add(SMALL)))
    assert either.banned


async def test_wrong_plain_bytes_are_refused(network: IpfsLocalnet, legacy: Asked) -> None:
    legacy.service.faults = Faults(wrong_bytes=True)
    with pytest.raises(InvalidBlock):
        await legacy.fetch(CID.parse(network.add(SMALL)))


TEMPORARY = {
    "cut": Faults(cut=True),
    "web page": Faults(html=True),
    "not found": Faults(status=404),
    "busy": Faults(status=429),
    "broken": Faults(status=500),
    "timed out": Faults(status=504),
}
FOR_GOOD = {
    "forbidden": Faults(status=403),
    "unauthorized": Faults(status=401),
    "gone": Faults(status=410),
    "legal": Faults(status=451),
    "redirect": Faults(redirect_to="http://127.0.0.1:9/"),
    "compressed": Faults(gzip=True),
}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["raw", "car"])
@pytest.mark.parametrize("faults", TEMPORARY.values(), ids=TEMPORARY)
async def test_a_temporary_fault_is_worth_another_try(
    network: IpfsLocalnet, either: Asked, faults: Faults, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    either.service.faults = faults
    with pytest.raises(ContentUnavailable):
        await either.fetch(cid)
    assert either.banned == ""
    either.service.faults = Faults()
    assert await either.fetch(cid) == content


@pytest.mark.parametrize("faults", FOR_GOOD.values(), ids=FOR_GOOD)
async def test_a_refusal_is_not_worth_another_try(network: IpfsLocalnet, either: Asked, faults: Faults) -> None:
    either.service.faults = faults
    with pytest.raises(ContentRefused):
        await either.fetch(CID.parse(network.add(LARGE)))


@pytest.mark.parametrize("status", [400, 401, 403, 406, 410, 451])
async def test_who_refused_a_content_is_not_asked_for_it_again(
    network: IpfsLocalnet, trustless: Asked, status: int
) -> None:
    refused, other = CID.parse(network.add(SMALL)), CID.parse(network.add(LARGE))
    trustless.service.faults = Faults(status=status)
    for _ in range(2):
        with pytest.raises(ContentRefused, match=str(status)):
            await trustless.fetch(refused)
        # In either of the two ways there are to ask, and then no more.
        assert len(trustless.service.requests) == (2 if status in (400, 406) else 1)
    trustless.service.faults = Faults()
    assert await trustless.fetch(other) == LARGE


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503])
async def test_who_could_not_give_it_now_is_asked_again_later(
    network: IpfsLocalnet, trustless: Asked, status: int
) -> None:
    cid = CID.parse(network.add(SMALL))
    trustless.service.faults = Faults(status=status, times=1)
    with pytest.raises(ContentUnavailable):
        await trustless.fetch(cid)
    assert await trustless.fetch(cid) == SMALL


async def test_what_may_have_been_cut_by_the_network_is_no_lie() -> None:
    """A body without length and chunks just ends, whoever ended it."""

    async def answer(request: httpx.Request) -> httpx.Response:
        headers = {"Content-Type": "application/vnd.ipld.raw"}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(SMALL[:-1]))

    standings = Standings()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = Gateway("https://gateway.example", client, allow_private=True, standings=standings)
        with pytest.raises(ContentUnavailable, match="cut short"):
            await gateway.fetch(CID.of(SMALL, RAW), LIMITS, SECONDS)
    assert standings.of(gateway.name).banned == ""
    assert standings.of(gateway.name).errors == 1


async def test_content_under_a_hash_that_is_unknown_here_bans_nobody(network: IpfsLocalnet, trustless: Asked) -> None:
    """Otherwise one job with such a program would have every honest gateway banned for good."""
    stranger = CID(1, RAW, 0x13, bytes(64))
    node = encode_node([Link(stranger, "", 1)], encode_file(1, block_sizes=[1]))
    root = CID.of(node, DAG_PB)
    car = b"".join(write_car(root, [(root, node), (stranger, b"x")]))
    kind = "application/vnd.ipld.car"
    trustless.service.faults = Faults(answer_base64=base64.b64encode(car).decode(), answer_type=kind)
    with pytest.raises(UnsupportedContent):
        await trustless.fetch(root)
    assert trustless.banned == ""


@pytest.fixture
def locked_file(tmp_path: Path) -> Iterator[Path]:
    """A file of standings whose lock another process has, and keeps."""
    with (tmp_path / "gateways.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path / "gateways.json"


async def test_content_is_not_lost_with_the_note_of_who_gave_it_and_the_loop_goes_on_meanwhile(
    network: IpfsLocalnet, client: httpx.AsyncClient, locked_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process stopped with the lock in its hands stopped every other flow run's event loop, for ever."""
    cid = CID.parse(network.add(SMALL))
    standings = Standings(locked_file, lock_seconds=1.0)
    gateway = Gateway(network.gateway_url, client, allow_private=True, standings=standings)
    longest_seconds = 0.0
    fetching = asyncio.create_task(gateway.fetch(cid, LIMITS, SECONDS))
    while not fetching.done():
        before = time.monotonic()
        await asyncio.wait([fetching], timeout=0.01)
        longest_seconds = max(longest_seconds, time.monotonic() - before)
    assert (await fetching).content == SMALL
    assert longest_seconds < 0.8
    assert "not on record" in caplog.text
    assert standings.all() == {}


async def test_who_lies_is_banned_here_even_if_it_cannot_be_noted(
    network: IpfsLocalnet, client: httpx.AsyncClient, locked_file: Path
) -> None:
    cid = CID.parse(network.add(SMALL))
    network.misbehave("gateway", Faults(wrong_bytes=True, times=1))
    standings = Standings(locked_file, lock_seconds=0.0)
    gateway = Gateway(network.gateway_url, client, allow_private=True, standings=standings)
    with pytest.raises(InvalidBlock):
        await gateway.fetch(cid, LIMITS, SECONDS)
    with pytest.raises(ContentRefused, match="not asked any more"):
        await gateway.fetch(cid, LIMITS, SECONDS)


async def test_who_was_overtaken_is_noted_although_the_request_was_cancelled(
    network: IpfsLocalnet, trustless: Asked
) -> None:
    network.misbehave("gateway", Faults(hang_seconds=30))
    fetching = asyncio.create_task(trustless.fetch(CID.parse(network.add(SMALL))))
    while not trustless.service.requests:
        await asyncio.wait([fetching], timeout=0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    standing = trustless.standings.of(trustless.gateway.name)
    assert (standing.attempts, standing.successes, standing.errors) == (1, 0, 0)


async def test_a_redirect_to_somebody_else_is_not_followed(network: IpfsLocalnet, trustless: Asked) -> None:
    trustless.service.faults = Faults(redirect_to=f"{network.legacy_gateway_url}/ipfs/x")
    with pytest.raises(ContentRefused):
        await trustless.fetch(CID.parse(network.add(SMALL)))
    assert len(network.services["legacy_gateway"].requests) == 0


async def test_a_redirect_to_what_is_no_url_is_worth_another_try(network: IpfsLocalnet, trustless: Asked) -> None:
    """httpx reads a Location even where it does not follow it, and its error for this one is none of HTTP's."""
    trustless.service.faults = Faults(redirect_to="mailto:x")
    with pytest.raises(ContentUnavailable, match="InvalidURL"):
        await trustless.fetch(CID.parse(network.add(SMALL)))


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "9"}, 9.0), ({"X-RateLimit-Reset": "1700000004"}, 4.0), ({}, None)]
)
async def test_a_busy_gateways_wish_is_passed_on(
    network: IpfsLocalnet, trustless: Asked, headers: dict[str, str], seconds: float | None
) -> None:
    trustless.service.faults = Faults(status=429, headers=headers)
    with pytest.raises(ContentUnavailable) as caught:
        await trustless.fetch(CID.parse(network.add(SMALL)))
    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize("faults", [Faults(hang_seconds=30), Faults(drip_seconds=0.01)], ids=["hang", "drip"])
async def test_a_slow_gateway_meets_the_deadline_even_if_every_single_byte_is_in_time(
    network: IpfsLocalnet, trustless: Asked, faults: Faults
) -> None:
    cid = CID.parse(network.add(LARGE[:1000]))
    trustless.service.faults = faults
    with pytest.raises(ContentUnavailable, match=r"within 0\.2 s"):
        await trustless.fetch(cid, seconds=0.2)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
async def test_content_that_is_too_large_is_refused_by_what_its_root_proves(
    network: IpfsLocalnet, trustless: Asked, profile: Profile
) -> None:
    cid = network.store.add(LARGE, profile)
    with pytest.raises((LimitExceeded, ContentRefused)) as caught:
        await trustless.fetch(cid, ReadLimits(max_bytes=len(LARGE) - 1))
    assert isinstance(caught.value, LimitExceeded) == (cid.codec == DAG_PB)


async def test_a_plain_answer_that_is_too_large_is_not_read(network: IpfsLocalnet, legacy: Asked) -> None:
    with pytest.raises(ContentRefused):
        await legacy.fetch(CID.parse(network.add(LARGE)), ReadLimits(max_bytes=1000))


async def test_blocks_that_are_missing_from_a_car_are_worth_another_try(
    network: IpfsLocalnet, trustless: Asked
) -> None:
    content = random.Random(8).randbytes(600_000)
    root = import_file(content, put=lambda cid, block: network.store.put(cid, block) if cid.codec == DAG_PB else None)
    with pytest.raises(ContentUnavailable, match="without block"):
        await trustless.fetch(root.cid)
    assert trustless.banned == ""


async def test_a_car_that_ends_in_the_middle_without_a_broken_connection_is_no_lie() -> None:
    root, blocks = import_blocks(LARGE)
    car = b"".join(write_car(root, blocks.items()))

    async def answer(request: httpx.Request) -> httpx.Response:
        headers = {"Content-Type": "application/vnd.ipld.car; version=1"}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(car[:-1]))

    standings = Standings()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = Gateway("https://gateway.example", client, allow_private=True, standings=standings)
        with pytest.raises(ContentUnavailable, match="cut short"):
            await gateway.fetch(root, LIMITS, SECONDS)
    assert standings.of(gateway.name).banned == ""


async def test_content_that_is_broken_in_itself_is_not_the_gateways_lie(
    network: IpfsLocalnet, trustless: Asked
) -> None:
    block = encode_node([Link(CID.of(b"leaf", RAW), "", 4)], encode_file(9, block_sizes=[8]))
    root = CID.of(block, DAG_PB)
    network.store.put(root, block)
    with pytest.raises(InvalidDag):
        await trustless.fetch(root)
    assert trustless.banned == ""


async def test_a_directory_is_refused_with_what_it_is(network: IpfsLocalnet, trustless: Asked) -> None:
    root = import_directory({"a": SMALL}, network.store.put).cid
    with pytest.raises(UnsupportedContent, match="directory"):
        await trustless.fetch(root)


async def test_a_gateway_on_this_machine_is_not_asked_unless_the_operator_allows_it(client: httpx.AsyncClient) -> None:
    with pytest.raises(Permanent):
        Gateway("http://127.0.0.1:1", client)
    guarded = Gateway("https://localhost:1", client)
    with pytest.raises(ContentRefused, match="not a public address"):
        await guarded.fetch(CID.of(SMALL, RAW), LIMITS, SECONDS)


async def test_the_address_connected_to_is_checked_besides_the_one_resolved() -> None:
    """A name that resolves to a public address first and to this machine a moment later."""

    class Peer:
        def get_extra_info(self, info: str) -> tuple[str, int] | None:
            return ("127.0.0.1", 443) if info == "server_addr" else None

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=SMALL, extensions={"network_stream": Peer()})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = Gateway("https://1.1.1.1", client)
        with pytest.raises(ContentRefused, match=r"at 127\.0\.0\.1"):
            await gateway.fetch(CID.of(SMALL, RAW), LIMITS, SECONDS)


async def _redirected(cid: CID, location: str) -> tuple[bytes, list[str]]:
    """What a gateway at a public address gives that sends every path request to `location`, and who was asked."""
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.path.startswith("/ipfs/"):
            return httpx.Response(301, headers={"Location": location})
        return httpx.Response(200, stream=httpx.ByteStream(SMALL))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = Gateway("https://gateway.example", client, allow_private=True)
        return (await gateway.fetch(cid, LIMITS, SECONDS)).content, asked


async def test_a_redirect_to_the_cids_own_subdomain_is_followed_once() -> None:
    cid = CID.of(SMALL, RAW)
    content, asked = await _redirected(cid, f"https://{cid}.ipfs.gateway.example/?format=raw")
    assert content == SMALL
    assert asked == ["gateway.example", f"{cid}.ipfs.gateway.example"]


@pytest.mark.parametrize(
    "location",
    [
        "https://{other}.ipfs.gateway.example/",
        "https://{cid}.ipfs.elsewhere.example/",
        "http://{cid}.ipfs.gateway.example/",
        "https://{cid}.ipfs.gateway.example:8443/",
        "https://user@{cid}.ipfs.gateway.example/",
        "https://127.0.0.1/",
        "https://[/",
        "/ipfs/{cid}",
        "",
    ],
)
async def test_every_other_redirect_is_refused(location: str) -> None:
    cid, other = CID.of(SMALL, RAW), CID.of(b"other", RAW)
    with pytest.raises(ContentRefused, match="redirects"):
        await _redirected(cid, location.format(cid=cid, other=other))


async def test_a_gateway_that_is_not_there_is_worth_another_try(client: httpx.AsyncClient) -> None:
    gateway = Gateway("http://127.0.0.1:9", client, allow_private=True)
    with pytest.raises(ContentUnavailable) as caught:
        await gateway.fetch(CID.of(SMALL, RAW), LIMITS, SECONDS)
    assert isinstance(caught.value, MillraceError)
