"""Every attack on content by name, and what must become of it.

Each attack is looked at from four sides: without it the same request succeeds; somebody without our defences meets
something bad; we, with nobody else to ask, end as the table says, in time and without spending memory; and with an
honest gateway beside it we get the right bytes all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hostile_dags
import httpx
import pytest
from pydantic import SecretStr

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.limits import MIB
from millrace.settings import IpfsSettings
from protocols.ipfs.cid import CID
from protocols.ipfs.content import STANDINGS_FILE, open_content
from protocols.ipfs.errors import (
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    PublishFailed,
    PublishRefused,
    UnsupportedContent,
)
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.importer import import_file
from protocols.ipfs.reader import ReadLimits, read_file
from protocols.ipfs.standing import Standings
from stages.fetch.ipfs import fetch_content
from stages.upload.ipfs import upload_content

SMALL = b"print('one raw block')\n"
LARGE = random.Random(21).randbytes(700_000)
MOST_BYTES = 1 * MIB
LIMITS = ReadLimits(max_bytes=MOST_BYTES)
NAIVE_SECONDS = 1.5
NAIVE_BYTES = 4 * MIB


@dataclass(frozen=True)
class Met:
    """What a client without defences sees: it follows redirects, unpacks, and reads until time or memory are up."""

    status: int = 0
    body: bytes = b""
    ended: bool = False
    """False if the answer went on beyond what a careful person would wait for or keep."""
    host: str = ""


async def naive(url: str) -> Met:
    pieces: list[bytes] = []
    total_bytes = 0
    status, host, ended = 0, "", False
    try:
        async with (
            asyncio.timeout(NAIVE_SECONDS),
            httpx.AsyncClient(trust_env=False, follow_redirects=True) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer,
        ):
            status, host = answer.status_code, f"{answer.url.host}:{answer.url.port}"
            async for piece in answer.aiter_bytes():
                pieces.append(piece)
                total_bytes += len(piece)
                if total_bytes > NAIVE_BYTES:
                    break
            else:
                ended = True
    except (TimeoutError, httpx.HTTPError):
        ended = False
    return Met(status, b"".join(pieces), ended, host)


@dataclass(frozen=True)
class Attack:
    """One attack by a gateway: how it is made, how it shows to the naive, and what must become of it."""

    faults: Callable[[CID, IpfsLocalnet], Faults]
    is_real: Callable[[Met, bytes], bool]
    ends_as: type[Exception]
    says: str
    bans: bool = False
    contents: tuple[bytes, ...] = (SMALL, LARGE)


def fault(**fields: object) -> Callable[[CID, IpfsLocalnet], Faults]:
    made = Faults.model_validate(fields)
    return lambda cid, honest: made


ATTACKS = {
    "wrong bytes": Attack(
        fault(wrong_bytes=True),
        lambda met, content: met.status == 200 and met.ended and met.body != content,
        InvalidBlock,
        "sent wrong bytes",
        bans=True,
    ),
    "other content": Attack(
        lambda cid, _: hostile_dags.other_content(),
        lambda met, content: met.status == 200 and b"nobody" not in content and b"sound" in met.body,
        ContentUnavailable,
        "without block",
        contents=(LARGE,),
    ),
    "cut stream after 200": Attack(
        fault(cut=True),
        lambda met, content: met.status == 200 and not met.ended and 0 < len(met.body) < len(content),
        ContentUnavailable,
        "RemoteProtocolError",
    ),
    "web page": Attack(
        fault(html=True),
        lambda met, content: met.status == 200 and b"<!doctype html>" in met.body,
        ContentUnavailable,
        "web page|no known way",
    ),
    "gzip bomb": Attack(
        fault(gzip_bomb_bytes=64 * MIB),
        lambda met, content: len(met.body) > NAIVE_BYTES,
        ContentRefused,
        "compressed",
    ),
    "endless drip": Attack(
        fault(drip_seconds=0.1),
        lambda met, content: met.status == 200 and not met.ended and 0 < len(met.body) < 100,
        ContentUnavailable,
        "did not answer within",
    ),
    "endless stream": Attack(
        fault(endless=True),
        lambda met, content: not met.ended and len(met.body) > NAIVE_BYTES,
        ContentRefused,
        "more",
        contents=(SMALL,),
    ),
    "silence": Attack(
        fault(hang_seconds=60),
        lambda met, content: met.status == 0,
        ContentUnavailable,
        "did not answer within",
    ),
    "huge block": Attack(
        fault(padding_bytes=40 * MIB),
        lambda met, content: len(met.body) > NAIVE_BYTES,
        ContentRefused,
        "at most|more bytes",
        contents=(SMALL,),
    ),
    "a block said to be a gigabyte": Attack(
        lambda cid, _: hostile_dags.claims_a_gigabyte(cid),
        lambda met, content: met.status == 200 and met.ended,
        ContentRefused,
        "section of 1073741824 bytes",
        contents=(LARGE,),
    ),
    "redirect to loopback": Attack(
        lambda cid, honest: Faults(redirect_to=f"{honest.rpc_url}/api/v0/version"),
        lambda met, content: met.status == 405,  # the daemon's own interface answers it
        ContentRefused,
        "redirects",
    ),
    "429 for a minute": Attack(
        fault(status=429, headers={"Retry-After": "60"}),
        lambda met, content: met.status == 429,
        ContentUnavailable,
        "answered 429",
    ),
}
CASES = [
    pytest.param(attack, content, id=f"{name}, {'raw' if content == SMALL else 'car'}")
    for name, attack in ATTACKS.items()
    for content in attack.contents
]


async def fetched(cid: str, settings: IpfsSettings, data_dir: Path) -> bytes:
    async with open_content(settings, data_dir) as content:
        found = await fetch_content(cid, MOST_BYTES, content=content)
        return content.store.get(found.cid)


@pytest.mark.parametrize(("attack", "content"), CASES)
async def test_without_the_attack_the_same_request_succeeds(
    hostile: IpfsLocalnet, settings: IpfsSettings, data_dir: Path, attack: Attack, content: bytes
) -> None:
    assert await fetched(hostile.add(content), settings, data_dir) == content


@pytest.mark.parametrize(("attack", "content"), CASES)
async def test_the_attack_is_real_for_whoever_has_no_defence(
    hostile: IpfsLocalnet, honest: IpfsLocalnet, attack: Attack, content: bytes
) -> None:
    cid = hostile.add(content)
    url = f"{hostile.gateway_url}/ipfs/{cid}"
    before = await naive(url)
    assert (before.status, before.ended, before.body) == (200, True, content)
    hostile.misbehave("gateway", attack.faults(CID.parse(cid), honest))
    assert attack.is_real(await naive(url), content)


@pytest.mark.parametrize(("attack", "content"), CASES)
async def test_alone_it_ends_as_it_must_in_time_and_without_spending_memory(
    hostile: IpfsLocalnet,
    honest: IpfsLocalnet,
    settings: IpfsSettings,
    data_dir: Path,
    attack: Attack,
    content: bytes,
) -> None:
    cid = hostile.add(content)
    hostile.misbehave("gateway", attack.faults(CID.parse(cid), honest))
    kind = ContentRefused if attack.ends_as is InvalidBlock else attack.ends_as
    started = time.monotonic()
    tracemalloc.start()
    try:
        async with open_content(settings, data_dir) as tools:
            with pytest.raises(kind, match=attack.says) as caught:
                await fetch_content(cid, MOST_BYTES, content=tools)
            assert not tools.store.has(cid)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(caught.value) is kind
    assert time.monotonic() - started < settings.timeout_seconds + 2.0
    assert peak_bytes < 32 * MIB
    assert len(honest.services["rpc"].requests) == 0, "nobody was sent to a neighbour"


@pytest.mark.parametrize(("attack", "content"), CASES)
async def test_an_honest_gateway_makes_up_for_it(
    hostile: IpfsLocalnet,
    honest: IpfsLocalnet,
    settings: IpfsSettings,
    data_dir: Path,
    attack: Attack,
    content: bytes,
) -> None:
    cid = hostile.add(content)
    assert honest.add(content) == cid
    hostile.misbehave("gateway", attack.faults(CID.parse(cid), honest))
    both = settings.model_copy(update={"gateways": (hostile.gateway_url, honest.gateway_url)})
    assert await fetched(cid, both, data_dir) == content
    assert len(hostile.services["gateway"].requests) == 1


@pytest.mark.parametrize(("attack", "content"), CASES)
async def test_who_lies_is_banned_for_every_later_flow_run_and_nobody_else_is(
    hostile: IpfsLocalnet,
    honest: IpfsLocalnet,
    settings: IpfsSettings,
    data_dir: Path,
    attack: Attack,
    content: bytes,
) -> None:
    cid = hostile.add(content)
    hostile.misbehave("gateway", attack.faults(CID.parse(cid), honest))
    with pytest.raises((ContentRefused, ContentUnavailable)):
        await fetched(cid, settings, data_dir)
    hostile.misbehave("gateway")
    hostile.services["gateway"].requests.clear()
    standings = Standings(data_dir / STANDINGS_FILE)
    assert bool(standings.of(hostile.gateway_url).banned) == attack.bans
    if attack.bans:
        assert cid in standings.of(hostile.gateway_url).banned, "the reason names the content"
        with pytest.raises(ContentRefused, match="not asked any more"):
            await fetched(cid, settings, data_dir)
        assert len(hostile.services["gateway"].requests) == 0
        assert standings.forgive(hostile.gateway_url)
    else:
        assert standings.of(hostile.gateway_url).errors + standings.of(hostile.gateway_url).attempts > 0
        standings.forgive(hostile.gateway_url)  # of its wish to be left alone, if it had one
    assert await fetched(cid, settings, data_dir) == content


async def test_429_for_a_minute_means_no_request_for_a_minute(hostile: IpfsLocalnet) -> None:
    now = 1_700_000_000.0
    standings = Standings(clock=lambda: now)
    cid = CID.parse(hostile.add(SMALL))
    hostile.misbehave("gateway", Faults(status=429, headers={"Retry-After": "60"}, times=1))
    asked = hostile.services["gateway"].requests
    async with httpx.AsyncClient(trust_env=False) as client:
        gateway = Gateway(hostile.gateway_url, client, allow_private=True, standings=standings, clock=lambda: now)
        for waited, left in ((0.0, 60.0), (0.0, 60.0), (59.0, 1.0)):
            now += waited
            with pytest.raises(ContentUnavailable) as caught:
                await gateway.fetch(cid, LIMITS, 1.0)
            assert caught.value.retry_after_seconds == left
            assert len(asked) == 1
        now += 1.0
        assert (await gateway.fetch(cid, LIMITS, 1.0)).content == SMALL


async def test_cyclic_dag(hostile: IpfsLocalnet, settings: IpfsSettings, data_dir: Path) -> None:
    """A cycle needs a false hash somewhere, and that is where it ends."""
    root, faults = hostile_dags.cyclic()
    hostile.misbehave("gateway", faults)
    async with asyncio.timeout(5):
        with pytest.raises(ContentRefused, match="do not match"):
            await fetched(str(root), settings, data_dir)
    assert Standings(data_dir / STANDINGS_FILE).of(hostile.gateway_url).banned


DIGESTS = {
    "sha2-256 cut to 20 bytes": (hashlib.sha256(b"the leaf").digest()[:20], 0x12),
    "sha2-256 of no bytes": (b"", 0x12),
    "sha2-256 of 33 bytes": (bytes(33), 0x12),
    "sha2-512": (hashlib.sha512(b"the leaf").digest(), 0x13),
    "longer than any digest": (bytes(200), 0x13),
    "longer than what a CID may hold": (bytes(129), 0x00),
}


@pytest.mark.parametrize(("digest", "hash_code"), DIGESTS.values(), ids=DIGESTS)
async def test_a_leaf_whose_name_cannot_be_checked(
    hostile: IpfsLocalnet, settings: IpfsSettings, data_dir: Path, digest: bytes, hash_code: int
) -> None:
    """The job's author chose the digest: otherwise each such job has every honest gateway banned for good."""
    root, faults = hostile_dags.unverifiable(digest, hash_code)
    hostile.misbehave("gateway", faults)
    with pytest.raises((UnsupportedContent, InvalidDag), match="digest of"):
        await fetched(str(root), settings, data_dir)
    assert not Standings(data_dir / STANDINGS_FILE).of(hostile.gateway_url).banned


@pytest.mark.parametrize("make", [hostile_dags.exponential, hostile_dags.heavy])
async def test_exponential_dag(
    hostile: IpfsLocalnet, settings: IpfsSettings, data_dir: Path, make: Callable[..., CID]
) -> None:
    """Every hash is right, so nobody lied: the content itself is what is refused."""
    root, settings = make(hostile.store), settings.model_copy(update={"timeout_seconds": 20.0})
    started = time.process_time()  # of ours alone, gateway included: a busy machine makes no difference
    with pytest.raises(LimitExceeded):
        await fetched(str(root), settings, data_dir)
    assert time.process_time() - started < 3.0
    assert not Standings(data_dir / STANDINGS_FILE).of(hostile.gateway_url).banned


class Enough(Exception):
    pass


@pytest.mark.parametrize(("make", "most_blocks"), [(hostile_dags.exponential, 20_000), (hostile_dags.heavy, 500)])
def test_exponential_dag_without_the_budget(hostile: IpfsLocalnet, make: Callable[..., CID], most_blocks: int) -> None:
    """The injection is real: with no budget the walk goes on long after any sensible file has ended."""
    root = make(hostile.store)
    visited = bytes_hashed = 0

    def block_of(cid: CID) -> bytes:
        nonlocal visited, bytes_hashed
        visited += 1
        block = hostile.store.block_of(cid)
        bytes_hashed += len(block)
        if visited > most_blocks:
            raise Enough
        return block

    with pytest.raises(Enough):
        b"".join(read_file(root, block_of, ReadLimits(1 << 60, 1 << 60, 1 << 10)))
    with pytest.raises(LimitExceeded):
        b"".join(read_file(root, hostile.store.block_of, LIMITS))


async def test_a_redirect_to_the_own_subdomain_is_looked_at_like_any_first_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway's own name is public, and its name for the CID leads to this machine."""
    cid = import_file(SMALL).cid
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(301, headers={"Location": f"https://{cid}.ipfs.gateway.example/"})

    async def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        address = "127.0.0.1" if host.startswith(str(cid)) else "1.1.1.1"
        return [(2, 1, 6, "", (address, 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ContentRefused, match=r"127\.0\.0\.1"):
            await Gateway("https://gateway.example", client).fetch(cid, LIMITS, 1.0)
    assert asked == ["gateway.example"]


PINATA = {
    "other CID returned": (Faults(other_cid=True), PublishRefused, "not what we sent"),
    "429 for a minute": (Faults(status=429, headers={"Retry-After": "60"}), PublishFailed, "answered 429"),
    "taken and never pinned": (Faults(never_pinned=True), PublishFailed, "is not pinned"),
    "web page": (Faults(html=True), PublishFailed, "not JSON"),
    "cut stream after 200": (Faults(cut=True), PublishFailed, "RemoteProtocolError"),
    "gzip bomb": (Faults(gzip_bomb_bytes=64 * MIB), PublishRefused, "compressed"),
    "endless drip": (Faults(drip_seconds=0.05), PublishFailed, "took longer"),
    "endless stream": (Faults(endless=True), PublishRefused, "more than"),
    "huge answer": (Faults(padding_bytes=40 * MIB), PublishRefused, "at most"),
    "silence": (Faults(hang_seconds=60), PublishFailed, "took longer"),
    "redirect to loopback": (Faults(redirect_to="http://127.0.0.1:9/"), PublishRefused, "302"),
    "refused": (Faults(status=403), PublishRefused, "token"),
}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["file", "car"])
@pytest.mark.parametrize(("faults", "kind", "says"), PINATA.values(), ids=PINATA)
async def test_hostile_pinata(
    hostile: IpfsLocalnet,
    settings: IpfsSettings,
    data_dir: Path,
    faults: Faults,
    kind: type[Exception],
    says: str,
    content: bytes,
) -> None:
    """There is no result before Pinata keeps our very CID, and there is one as soon as it does."""
    hostile.misbehave("pinata", faults)
    document = content + repr((faults, len(content))).encode()
    async with open_content(settings, data_dir) as tools:
        tracemalloc.start()
        try:
            with pytest.raises(kind, match=says) as caught:
                await upload_content(document, "result", content=tools)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 32 * MIB
        assert hostile.pinata_jwt not in str(caught.value)
        if faults.status == 429:
            assert getattr(caught.value, "retry_after_seconds", None) == 60.0
        assert tools.store.entry(import_file(document).cid).pinned, "it is the only copy until others have it"
        hostile.misbehave("pinata")
        uploaded = await upload_content(document, "result", content=tools)
    assert uploaded.places == ("embedded store", "pinata")
    assert uploaded.cid == str(import_file(document).cid)
    assert hostile.store.read(CID.parse(uploaded.cid)) == document


PINNING_SERVICE = {
    "other CID returned": (Faults(other_cid=True), PublishRefused, "speaks of"),
    "429 for a minute": (Faults(status=429, headers={"Retry-After": "60"}), PublishFailed, "answered 429"),
    "taken and never pinned": (Faults(never_pinned=True), PublishFailed, "is not pinned"),
    "pin failed": (Faults(pin_error="no provider"), PublishFailed, "no provider"),
    "web page": (Faults(html=True), PublishFailed, "not JSON"),
    "cut stream after 200": (Faults(cut=True), PublishFailed, "RemoteProtocolError"),
    "gzip bomb": (Faults(gzip_bomb_bytes=64 * MIB), PublishRefused, "compressed"),
    "endless stream": (Faults(endless=True), PublishRefused, "more than"),
    "redirect to loopback": (Faults(redirect_to="http://127.0.0.1:9/"), PublishRefused, "302"),
    "no money": (Faults(status=409, reason="INSUFFICIENT_FUNDS"), PublishRefused, "INSUFFICIENT_FUNDS"),
}


@pytest.mark.parametrize(("faults", "kind", "says"), PINNING_SERVICE.values(), ids=PINNING_SERVICE)
async def test_hostile_pinning_service(
    hostile: IpfsLocalnet,
    settings: IpfsSettings,
    data_dir: Path,
    faults: Faults,
    kind: type[Exception],
    says: str,
) -> None:
    """The bytes are at Pinata, and there is still no result before the service says that it has pinned our CID."""
    pinning = settings.model_copy(
        update={
            "pinning_service": hostile.pinning_service_url,
            "pinning_service_token": SecretStr(hostile.pinata_jwt),
            "timeout_seconds": 4.0,
        }
    )
    document = SMALL + repr(faults).encode()
    hostile.misbehave("pinning_service", faults)
    async with open_content(pinning, data_dir) as tools:
        with pytest.raises(kind, match=says):
            await upload_content(document, "result", content=tools)
        hostile.misbehave("pinning_service")
        uploaded = await upload_content(document, "result", content=tools)
    assert uploaded.places == ("embedded store", "pinata", "pinning service")


DAEMON = {
    "wrong bytes": Faults(wrong_bytes=True),
    "cut stream after 200": Faults(cut=True),
    "web page": Faults(html=True),
    "gzip bomb": Faults(gzip_bomb_bytes=64 * MIB),
    "endless drip": Faults(drip_seconds=0.05),
    "endless stream": Faults(endless=True),
    "huge answer": Faults(padding_bytes=40 * MIB),
    "silence": Faults(hang_seconds=60),
    "redirect to loopback": Faults(redirect_to="http://127.0.0.1:9/"),
    "500": Faults(status=500),
}


@pytest.mark.parametrize("faults", DAEMON.values(), ids=DAEMON)
async def test_hostile_daemon(
    hostile: IpfsLocalnet, honest: IpfsLocalnet, settings: IpfsSettings, data_dir: Path, faults: Faults
) -> None:
    """The operator's own daemon is believed as little as anybody, and takes no more memory than an answer may have."""
    document = LARGE + repr(faults).encode()
    cid = hostile.add(document)
    assert honest.add(document) == cid
    own = settings.model_copy(update={"daemon": hostile.rpc_url, "gateways": (honest.gateway_url,), "pinata_jwt": None})
    hostile.misbehave("rpc", faults)
    async with open_content(own, data_dir) as tools:
        tracemalloc.start()
        try:
            fetched = await fetch_content(cid, MOST_BYTES, content=tools)
            with pytest.raises((PublishFailed, PublishRefused)):
                await upload_content(document, "result", content=tools)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert fetched.source == honest.gateway_url
        assert tools.store.get(cid) == document
        assert peak_bytes < 48 * MIB
        hostile.misbehave("rpc")
        assert (await upload_content(document, "result", content=tools)).places == ("embedded store", "daemon")
