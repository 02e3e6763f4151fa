"""A kubo daemon through ipfshttpclient, with warnings as errors: nothing of either library leaks out."""

from __future__ import annotations

import asyncio
import io
import random
import threading
import time

import pytest
from ipfshttpclient.exceptions import ErrorResponse

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import Permanent
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import (
    ContentUnavailable,
    InvalidBlock,
    LimitExceeded,
    PublishFailed,
    PublishRefused,
)
from protocols.ipfs.importer import import_file
from protocols.ipfs.kubo import KuboDaemon
from protocols.ipfs.kubo_client import HangUp, daemon_client
from protocols.ipfs.profiles import PROFILES, V0, V1, Profile
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.threads import THREAD_NAME

SMALL = b"a result\n"
LARGE = random.Random(6).randbytes(600_000)
LIMITS = ReadLimits(max_bytes=1 << 20)
SECONDS = 5.0


@pytest.fixture
def daemon(network: IpfsLocalnet) -> KuboDaemon:
    return KuboDaemon(network.rpc_url, timeout_seconds=SECONDS)


def multiaddr(network: IpfsLocalnet) -> str:
    return f"/ip4/127.0.0.1/tcp/{network.rpc_url.rpartition(':')[2]}/http"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_content_of_every_profile_is_fetched(
    network: IpfsLocalnet, daemon: KuboDaemon, content: bytes, profile: Profile
) -> None:
    cid = network.store.add(content, profile)
    assert (await daemon.fetch(cid, LIMITS, SECONDS)).content == content


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_published_content_is_there_under_our_cid_and_pinned(
    network: IpfsLocalnet, daemon: KuboDaemon, content: bytes
) -> None:
    cid = import_file(content).cid
    published = await daemon.publish(cid, content, "result")
    assert CID.parse(published.cid) == cid
    assert published.place == "daemon"
    assert network.store.read(cid) == content
    assert cid in network.store.pins()
    assert await daemon.publish(cid, content, "result") == published


async def test_the_version_is_read_from_daemons_newer_than_the_client_knows(daemon: KuboDaemon) -> None:
    assert (await daemon.check()).startswith("version 0.")


async def test_what_the_daemon_does_not_find_is_worth_another_try(daemon: KuboDaemon) -> None:
    with pytest.raises(ContentUnavailable, match="could not find"):
        await daemon.fetch(CID.of(b"nobody has this", RAW), LIMITS, SECONDS)


async def test_wrong_bytes_of_a_daemon_are_refused_too(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    network.misbehave("rpc", Faults(wrong_bytes=True))
    with pytest.raises(InvalidBlock):
        await daemon.fetch(CID.parse(network.add(LARGE)), LIMITS, SECONDS)


@pytest.mark.parametrize(
    "faults",
    [Faults(cut=True), Faults(status=500), Faults(hang_seconds=30), Faults(drip_seconds=0.02)],
    ids=["cut", "error", "hang", "drip"],
)
async def test_a_daemon_that_fails_half_way_is_worth_another_try(
    network: IpfsLocalnet, daemon: KuboDaemon, faults: Faults
) -> None:
    cid = CID.parse(network.add(LARGE[:2000]))
    network.misbehave("rpc", faults)
    with pytest.raises(ContentUnavailable):
        await daemon.fetch(cid, LIMITS, 0.3)


@pytest.mark.parametrize("faults", [Faults(hang_seconds=30), Faults(drip_seconds=10)], ids=["silent", "drip"])
async def test_a_daemon_that_nobody_waits_for_any_more_keeps_no_thread(network: IpfsLocalnet, faults: Faults) -> None:
    """Whenever a gateway was faster than a silent daemon, a thread waited on, for up to the whole time-out."""
    cid = CID.parse(network.add(LARGE))
    network.misbehave("rpc", faults)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(KuboDaemon(network.rpc_url).fetch(cid, LIMITS, 60.0), 0.3)
    began = time.monotonic()
    for thread in [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]:
        thread.join(3.0)
    assert time.monotonic() < began + 3.0


async def test_a_call_given_up_before_it_is_connected_hangs_up_then(network: IpfsLocalnet) -> None:
    network.misbehave("rpc", Faults(hang_seconds=30))
    hang_up = HangUp()
    hang_up()
    began = time.monotonic()
    with pytest.raises(ContentUnavailable), daemon_client(multiaddr(network), 30.0, hang_up) as client:
        client.version()
    assert time.monotonic() < began + 3.0


async def test_a_body_that_takes_too_long_is_given_up_between_its_pieces(network: IpfsLocalnet) -> None:
    """Otherwise its thread would read on for as long as the daemon likes, long after nobody waits for it."""
    ticks = iter(range(0, 10_000, 4))
    daemon = KuboDaemon(network.rpc_url, clock=lambda: next(ticks))
    with pytest.raises(ContentUnavailable, match="did not send all"):
        await daemon.fetch(CID.parse(network.add(LARGE)), LIMITS, SECONDS)


async def test_a_web_page_is_no_content(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    network.misbehave("rpc", Faults(html=True))
    with pytest.raises(InvalidBlock):
        await daemon.fetch(CID.parse(network.add(LARGE)), LIMITS, SECONDS)
    with pytest.raises((PublishRefused, PublishFailed)):
        await daemon.publish(import_file(LARGE).cid, LARGE, "result")


async def test_a_redirect_is_not_followed(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    network.misbehave("rpc", Faults(redirect_to=f"{network.gateway_url}/ipfs/bafkqaaa"))
    with pytest.raises(ContentUnavailable):
        await daemon.check()
    with pytest.raises(PublishFailed):
        await daemon.publish(import_file(LARGE).cid, LARGE, "result")
    assert len(network.services["gateway"].requests) == 0


@pytest.mark.parametrize("faults", [Faults(endless=True), Faults(padding_bytes=20 << 20)], ids=["endless", "huge"])
async def test_an_answer_of_the_daemon_is_read_up_to_a_cap(
    network: IpfsLocalnet, daemon: KuboDaemon, faults: Faults
) -> None:
    """The library would read it on in its thread, long after nobody waits for it."""
    network.misbehave("rpc", faults)
    with pytest.raises(ContentUnavailable, match="more than"):
        await daemon.check()


async def test_content_that_is_too_large_is_refused(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    cid = CID.parse(network.add(LARGE))
    with pytest.raises(LimitExceeded):
        await daemon.fetch(cid, ReadLimits(max_bytes=1000), SECONDS)


async def test_a_daemon_that_is_not_there_is_worth_another_try() -> None:
    absent = KuboDaemon("/ip4/127.0.0.1/tcp/9", timeout_seconds=1.0)
    with pytest.raises(ContentUnavailable, match="cannot be talked to"):
        await absent.fetch(CID.of(SMALL, RAW), LIMITS, 1.0)
    with pytest.raises(PublishFailed):
        await absent.publish(import_file(SMALL).cid, SMALL, "result")


async def test_another_cid_than_ours_is_no_result(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    network.misbehave("rpc", Faults(other_cid=True))
    with pytest.raises(PublishRefused, match="not bafkrei"):
        await daemon.publish(import_file(SMALL).cid, SMALL, "result")


async def test_content_that_is_taken_but_not_pinned_is_no_result(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    unpinned = b"not pinned by any other test"
    network.misbehave("rpc", Faults(pin_error="disk full"))
    with pytest.raises(PublishFailed, match="disk full"):
        await daemon.publish(import_file(unpinned).cid, unpinned, "result")


async def test_what_is_pinned_already_is_not_sent_again(network: IpfsLocalnet, daemon: KuboDaemon) -> None:
    await daemon.publish(import_file(LARGE).cid, LARGE, "result")
    network.services["rpc"].requests.clear()
    await daemon.publish(import_file(LARGE).cid, LARGE, "result")
    assert [path.partition("?")[0] for _, path, _ in network.services["rpc"].requests] == ["/api/v0/pin/ls"]


async def test_content_that_the_daemon_does_not_list_as_pinned_is_no_result(
    network: IpfsLocalnet, daemon: KuboDaemon
) -> None:
    for faults in (Faults(path="pin/ls", status=500), Faults(path="pin/ls", other_cid=True)):
        network.misbehave("rpc", faults)
        with pytest.raises(PublishFailed):
            await daemon.publish(import_file(LARGE).cid, LARGE, "result")


async def test_a_name_that_is_not_the_contents_is_refused_before_sending(
    network: IpfsLocalnet, daemon: KuboDaemon
) -> None:
    with pytest.raises(PublishRefused):
        await daemon.publish(CID.of(b"other", RAW), SMALL, "result")
    assert len(network.services["rpc"].requests) == 0


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(Permanent):
        await KuboDaemon("/ip4/127.0.0.1/udp/5001").check()


def test_the_other_safe_calls_of_the_client_work_against_the_stand_in(network: IpfsLocalnet) -> None:
    with daemon_client(multiaddr(network), SECONDS) as client:
        assert client.id()["ID"]
        added = client.add(io.BytesIO(LARGE), cid_version=1, raw_leaves=True, chunker="size-262144")
        assert added["Hash"] == str(import_file(LARGE, V1).cid)
        assert client.add(io.BytesIO(LARGE))["Hash"] == str(import_file(LARGE, V0).cid)
        assert client.cat(added["Hash"]) == LARGE
        assert client.cat(added["Hash"], offset=10, length=20) == LARGE[10:30]
        with client.cat(added["Hash"], stream=True) as pieces:
            assert b"".join(pieces) == LARGE
        unpinned = network.add(b"not pinned yet")
        assert client.pin.add(unpinned)["Pins"] == [unpinned]
        assert unpinned in client.pin.ls()["Keys"]
        assert client.block.get(unpinned) == b"not pinned yet"


def test_the_stand_in_answers_errors_as_kubo_does(network: IpfsLocalnet) -> None:
    with daemon_client(multiaddr(network), SECONDS) as client:
        with pytest.raises(ErrorResponse, match="no CID"):
            client.cat("nonsense")
        with pytest.raises(ErrorResponse, match="is not pinned"):
            client.pin.ls(network.add(b"never pinned"))
