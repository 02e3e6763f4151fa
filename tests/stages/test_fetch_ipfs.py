"""The fetch stage: store first, then every source in order, and nothing kept that was not proven."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import MillraceError, Permanent
from millrace.settings import IpfsSettings
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.content import Content, open_content
from protocols.ipfs.directory import import_directory
from protocols.ipfs.errors import (
    ContentRefused,
    ContentUnavailable,
    InvalidCID,
    InvalidDag,
    LimitExceeded,
    StoreFault,
    StoreFull,
    UnsupportedContent,
)
from protocols.ipfs.locks import alone
from protocols.ipfs.profiles import Profile
from protocols.ipfs.race import HEDGE_SECONDS
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.store import ContentStore
from protocols.ipfs.verified import Verified
from stages.fetch.ipfs import Fetched, fetch_content

PROGRAM = b"print(6 * 7)\n"
LARGE = random.Random(11).randbytes(700_000)
MOST_BYTES = 1 << 20


@pytest.fixture
def network(tmp_path: Path) -> Iterator[IpfsLocalnet]:
    with IpfsLocalnet(tmp_path / "network") as network:
        yield network


def settings(network: IpfsLocalnet, *places: str, seconds: float = 5.0, max_bytes: int = 1 << 24) -> IpfsSettings:
    """Settings with the named services of the localnet, gateways in that order."""
    gateways = {
        "gateway": network.gateway_url,
        "legacy_gateway": network.legacy_gateway_url,
        "absent": "http://[::1]:9",
    }
    return IpfsSettings(
        gateways=tuple(gateways[place] for place in places if place in gateways),
        daemon=network.rpc_url if "rpc" in places else "",
        allow_private_gateways=True,
        timeout_seconds=seconds,
        max_bytes=max_bytes,
    )


@pytest.mark.parametrize("place", ["gateway", "legacy_gateway", "rpc"])
@pytest.mark.parametrize("content", [b"", PROGRAM, LARGE], ids=["empty", "program", "large"])
async def test_content_is_fetched_once_and_is_in_the_store_afterwards(
    network: IpfsLocalnet, tmp_path: Path, place: str, content: bytes
) -> None:
    cid = network.add(content)
    async with open_content(settings(network, place), tmp_path) as tools:
        first = await fetch_content(cid, MOST_BYTES, content=tools)
        second = await fetch_content(cid, MOST_BYTES, content=tools)
        assert tools.store.get(cid) == content
    source = {"gateway": network.gateway_url, "legacy_gateway": network.legacy_gateway_url, "rpc": "daemon"}[place]
    digest = hashlib.sha256(content).hexdigest()
    assert first == Fetched(cid=cid, size_bytes=len(content), sha256=digest, source=source)
    assert second.source == "embedded store"
    assert len(network.services[place].requests) == 1


async def test_the_daemon_is_asked_before_the_gateways(network: IpfsLocalnet, tmp_path: Path) -> None:
    async with open_content(settings(network, "gateway", "rpc"), tmp_path) as tools:
        assert (await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)).source == "daemon"
    assert len(network.services["gateway"].requests) == 0


BAD = {
    "wrong bytes": Faults(wrong_bytes=True),
    "cut": Faults(cut=True),
    "page": Faults(html=True),
    "busy": Faults(status=429),
    "forbidden": Faults(status=403),
    "redirect": Faults(redirect_to="http://127.0.0.1:9"),
    "compressed": Faults(gzip=True),
    "hang": Faults(hang_seconds=30),
    "drip": Faults(drip_seconds=0.02),
}


@pytest.mark.parametrize("faults", BAD.values(), ids=BAD)
async def test_the_next_source_makes_up_for_a_bad_one(network: IpfsLocalnet, tmp_path: Path, faults: Faults) -> None:
    network.misbehave("gateway", faults)
    async with open_content(settings(network, "gateway", "legacy_gateway", seconds=2.0), tmp_path) as tools:
        fetched = await fetch_content(network.add(LARGE), MOST_BYTES, content=tools)
    assert fetched.source == network.legacy_gateway_url


async def test_a_source_that_hangs_gets_its_share_of_the_time_and_no_more(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    network.misbehave("rpc", Faults(hang_seconds=30))
    network.misbehave("gateway", Faults(hang_seconds=30))
    async with open_content(settings(network, "rpc", "gateway", "legacy_gateway", seconds=1.0), tmp_path) as tools:
        async with asyncio.timeout(3):
            fetched = await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)
    assert fetched.source == network.legacy_gateway_url


async def test_a_gateway_that_lied_is_not_asked_again_by_any_later_flow_run(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    network.misbehave("gateway", Faults(wrong_bytes=True))
    for content in (PROGRAM, LARGE):
        async with open_content(settings(network, "gateway", "legacy_gateway"), tmp_path) as tools:
            await fetch_content(network.add(content), MOST_BYTES, content=tools)
    assert len(network.services["gateway"].requests) == 1


async def test_when_nobody_has_it_every_place_is_named_and_it_is_worth_another_try(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    cid = str(CID.of(b"nobody has this", RAW))
    async with open_content(settings(network, "rpc", "gateway", "absent"), tmp_path) as tools:
        with pytest.raises(ContentUnavailable) as caught:
            await fetch_content(cid, MOST_BYTES, content=tools)
    for place in ("daemon", network.gateway_url, "http://[::1]:9"):
        assert place in caught.value.message


async def test_when_every_place_refuses_for_good_it_is_not_worth_another_try(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    network.misbehave("gateway", Faults(status=403))
    network.misbehave("legacy_gateway", Faults(wrong_bytes=True))
    async with open_content(settings(network, "gateway", "legacy_gateway"), tmp_path) as tools:
        with pytest.raises(ContentRefused):
            await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)


async def test_the_shortest_wait_is_kept_only_if_every_source_wants_one(network: IpfsLocalnet, tmp_path: Path) -> None:
    network.misbehave("gateway", Faults(status=429, headers={"Retry-After": "40"}))
    network.misbehave("legacy_gateway", Faults(status=429, headers={"Retry-After": "20"}))
    waits = []
    for places in (("gateway", "legacy_gateway"), ("gateway", "absent")):
        async with open_content(settings(network, *places), tmp_path) as tools:
            with pytest.raises(ContentUnavailable) as caught:
                await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)
            waits.append(caught.value.retry_after_seconds)
    assert waits == [20.0, None]


async def test_with_nowhere_to_look_the_settings_are_named(tmp_path: Path) -> None:
    async with open_content(IpfsSettings(gateways=()), tmp_path) as tools:
        with pytest.raises(ContentRefused) as caught:
            await fetch_content(str(CID.of(PROGRAM, RAW)), MOST_BYTES, content=tools)
    assert "MILLRACE_IPFS__GATEWAYS" in caught.value.hint


async def test_content_that_is_too_large_ends_the_search(network: IpfsLocalnet, tmp_path: Path) -> None:
    cid = network.add(LARGE)
    async with open_content(settings(network, "gateway", "legacy_gateway"), tmp_path) as tools:
        with pytest.raises(LimitExceeded):
            await fetch_content(cid, 1000, content=tools)
        assert not tools.store.has(cid)
        assert len(network.services["legacy_gateway"].requests) == 0
        await fetch_content(cid, MOST_BYTES, content=tools)
        with pytest.raises(LimitExceeded):
            await fetch_content(cid, 1000, content=tools)


async def test_the_settings_limit_holds_whatever_the_caller_allows(network: IpfsLocalnet, tmp_path: Path) -> None:
    async with open_content(settings(network, "gateway", max_bytes=1000), tmp_path) as tools:
        with pytest.raises(LimitExceeded):
            await fetch_content(network.add(LARGE), MOST_BYTES, content=tools)


async def test_a_directory_ends_the_search(network: IpfsLocalnet, tmp_path: Path) -> None:
    root = import_directory({"main.py": PROGRAM}, network.store.put).cid
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        with pytest.raises(UnsupportedContent):
            await fetch_content(str(root), MOST_BYTES, content=tools)


@pytest.mark.parametrize("place", ["gateway", "rpc"])
async def test_a_file_in_a_directory_is_fetched_by_its_path(network: IpfsLocalnet, tmp_path: Path, place: str) -> None:
    root = import_directory({"src": {"main.py": PROGRAM, "größe": LARGE}}, network.store.put).cid
    async with open_content(settings(network, place), tmp_path) as tools:
        for path, wanted in (("src/main.py", PROGRAM), ("src/größe", LARGE)):
            fetched = await fetch_content(f"{root}/{path}", MOST_BYTES, content=tools)
            assert tools.store.get(fetched.cid) == wanted
            assert fetched.cid == network.add(wanted)
        requests = network.services[place].requests
        requests.clear()
        await fetch_content(f"{root}/src/main.py", MOST_BYTES, content=tools)
    assert len(requests) == 2, "the two directories; the file is in the store"


@pytest.mark.parametrize(
    ("path", "says"), [("src/other.py", "no entry"), ("src/main.py/x", "not a directory"), ("a/" * 20 + "b", "20|21")]
)
async def test_a_path_that_leads_nowhere_ends_the_search(
    network: IpfsLocalnet, tmp_path: Path, path: str, says: str
) -> None:
    root = import_directory({"src": {"main.py": PROGRAM}}, network.store.put).cid
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        with pytest.raises(UnsupportedContent, match=says):
            await fetch_content(f"{root}/{path}", MOST_BYTES, content=tools)


async def test_a_directory_with_wrong_bytes_is_a_lie_and_one_without_blocks_is_not(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    root = import_directory({"main.py": PROGRAM}, network.store.put).cid
    network.misbehave("gateway", Faults(wrong_bytes=True))
    async with open_content(settings(network, "gateway", "legacy_gateway"), tmp_path) as tools:
        with pytest.raises(MillraceError):
            await fetch_content(f"{root}/main.py", MOST_BYTES, content=tools)
        known = tools.standings.all()
    assert known[network.gateway_url].banned
    assert not known[network.legacy_gateway_url].banned


@pytest.mark.parametrize(
    "cid", ["", "nonsense", "../x", "ipfs://bafkqaaa", "bafkqaaa/../x", "bafkqaaa/", "bafkqaaa?format=raw"]
)
async def test_what_is_no_cid_is_refused_before_anybody_is_asked(
    network: IpfsLocalnet, tmp_path: Path, cid: str
) -> None:
    async with open_content(settings(network, "rpc", "gateway"), tmp_path) as tools:
        with pytest.raises((InvalidCID, InvalidDag)):
            await fetch_content(cid, MOST_BYTES, content=tools)
    assert len(network.services["rpc"].requests) + len(network.services["gateway"].requests) == 0


async def test_content_of_an_unknown_dialect_is_kept_with_its_blocks(network: IpfsLocalnet, tmp_path: Path) -> None:
    cid = network.store.add(LARGE, Profile("their own", 1, True, chunk_bytes=30_000, width=5))
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        await fetch_content(str(cid), MOST_BYTES, content=tools)
        assert (await fetch_content(str(cid), MOST_BYTES, content=tools)).source == "embedded store"
        assert tools.store.get(cid) == LARGE


async def test_content_damaged_in_the_store_is_fetched_again(network: IpfsLocalnet, tmp_path: Path) -> None:
    cid = network.add(PROGRAM)
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        await fetch_content(cid, MOST_BYTES, content=tools)
        [kept] = tools.store.root.glob("??/*.raw")
        kept.write_bytes(b"print('evil')\n")
        assert (await fetch_content(cid, MOST_BYTES, content=tools)).source == network.gateway_url
        assert tools.store.get(cid) == PROGRAM


async def test_the_second_gateway_is_asked_while_the_first_is_silent_and_the_first_is_hung_up_on(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    network.misbehave("gateway", Faults(hang_seconds=60))
    started = time.monotonic()
    async with open_content(settings(network, "gateway", "legacy_gateway", seconds=30.0), tmp_path) as tools:
        fetched = await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)
    assert fetched.source == network.legacy_gateway_url
    assert HEDGE_SECONDS <= time.monotonic() - started < HEDGE_SECONDS + 3.0


async def test_the_gateway_that_did_best_is_asked_first_in_the_next_flow_run(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    network.misbehave("gateway", Faults(status=500, times=1))
    sources = []
    for number in range(3):
        async with open_content(settings(network, "gateway", "legacy_gateway"), tmp_path) as tools:
            cid = network.add(PROGRAM + bytes([number]))
            sources.append((await fetch_content(cid, MOST_BYTES, content=tools)).source)
    assert sources == [network.legacy_gateway_url] * 3
    assert len(network.services["gateway"].requests) == 1


async def test_flow_runs_that_want_the_same_content_at_the_same_time_ask_for_it_once(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    """Each with its own connections, as two processes on one machine have."""
    cid = network.add(LARGE)
    network.misbehave("gateway", Faults(hang_seconds=0.3))

    async def flow_run() -> str:
        async with open_content(settings(network, "gateway"), tmp_path) as tools:
            return (await fetch_content(cid, MOST_BYTES, content=tools)).source

    sources = await asyncio.gather(*[flow_run() for _ in range(4)])
    assert sorted(sources) == sorted([network.gateway_url, *["embedded store"] * 3])
    assert len(network.services["gateway"].requests) == 1
    assert list((tmp_path / "content" / ".fetching").iterdir()) == []


async def test_a_flow_run_waits_no_longer_than_its_deadline_for_another_to_fetch(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    cid = network.add(PROGRAM)
    async with open_content(settings(network, "gateway", seconds=0.3), tmp_path) as tools:
        async with alone(tools.store.lock_of(CID.parse(cid)), 1.0):
            with pytest.raises(ContentUnavailable, match="another flow run"):
                await fetch_content(cid, MOST_BYTES, content=tools)
        assert (await fetch_content(cid, MOST_BYTES, content=tools)).source == network.gateway_url


class TimedOut:
    """A source of somebody's own whose deadline passes in a way it did not think of."""

    name = "somebody's own"

    async def check(self) -> str:
        return ""

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        raise TimeoutError("the tape robot is asleep")

    async def fetch_block(self, cid: CID, timeout_seconds: float) -> bytes:
        raise TimeoutError("the tape robot is asleep")


async def test_a_timeout_while_fetching_is_not_taken_for_another_flow_run(tmp_path: Path) -> None:
    cid = CID.of(PROGRAM, RAW)
    async with Content(ContentStore(tmp_path / "content"), sources=[TimedOut()]) as tools:
        with pytest.raises(TimeoutError, match="tape robot"):
            await tools.fetch_elsewhere(cid, ReadLimits())


@pytest.mark.parametrize("cid", [CID(1, RAW, 0x13, bytes(64)), CID(1, 0x71, 0x12, bytes(32))])
async def test_a_cid_that_cannot_be_read_here_is_refused_before_anybody_is_asked(
    network: IpfsLocalnet, tmp_path: Path, cid: CID
) -> None:
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        with pytest.raises(UnsupportedContent):
            await fetch_content(str(cid), MOST_BYTES, content=tools)
    assert len(network.services["gateway"].requests) == 0


async def test_a_quota_that_pinned_content_fills_is_a_clear_error(network: IpfsLocalnet, tmp_path: Path) -> None:
    tight = settings(network, "gateway").model_copy(update={"quota_bytes": 100_000})
    async with open_content(tight, tmp_path) as tools:
        with pytest.raises(StoreFull) as caught:
            await fetch_content(network.add(LARGE), MOST_BYTES, content=tools)
    assert "MILLRACE_IPFS__QUOTA_BYTES" in caught.value.hint


async def test_a_data_folder_that_cannot_be_written_is_a_fault_of_the_store(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / ".fetching").write_text("a file where the folder should be")
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        with pytest.raises(StoreFault):
            await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)


async def test_gateways_that_cannot_be_noted_cost_no_content(
    network: IpfsLocalnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gateways.lock").mkdir()
    async with open_content(settings(network, "gateway"), tmp_path) as tools:
        fetched = await fetch_content(network.add(PROGRAM), MOST_BYTES, content=tools)
        assert tools.store.get(fetched.cid) == PROGRAM
    assert "not on record" in caplog.text


def test_a_gateway_of_plain_http_is_refused_when_the_content_is_opened(tmp_path: Path) -> None:
    with pytest.raises(Permanent):
        open_content(IpfsSettings(gateways=("http://gateway.example",)), tmp_path)


def test_what_was_fetched_comes_back_from_json() -> None:
    fetched = Fetched(cid="bafkqaaa", size_bytes=0, sha256="00", source="daemon")
    assert Fetched.model_validate_json(fetched.model_dump_json()) == fetched


def test_every_error_of_a_fetch_is_in_the_tree() -> None:
    assert all(issubclass(kind, MillraceError) for kind in (ContentUnavailable, ContentRefused, LimitExceeded))
