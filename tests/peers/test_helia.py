"""Helia behind a gateway: its CIDs are ours, and what it serves, our gateway client proves."""

from __future__ import annotations

import httpx
import pytest
from ipfs_peers import CHUNK, SIZES, HeliaGateway, file_of

from protocols.ipfs.cid import CID, DAG_PB, RAW
from protocols.ipfs.errors import ContentUnavailable, LimitExceeded
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.importer import import_blocks, import_file
from protocols.ipfs.profiles import PROFILES, V1, Profile
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.standing import Standings

pytestmark = pytest.mark.ipfs

LIMITS = ReadLimits(max_bytes=16 << 20)
SECONDS = 20.0


@pytest.fixture
def gateway(helia: HeliaGateway, client: httpx.AsyncClient) -> Gateway:
    return Gateway(helia.url, client, allow_private=True)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
async def test_helia_names_files_of_every_size_as_we_do_and_serves_them(
    helia: HeliaGateway, gateway: Gateway, profile: Profile
) -> None:
    for size in SIZES:
        content = file_of(size)
        cid = helia.add(content, profile)
        assert str(cid) == str(import_file(content, profile).cid), size
        assert (await gateway.fetch(cid, LIMITS, SECONDS)).content == content, size


async def test_helia_answers_the_probe_as_a_trustless_gateway_does(gateway: Gateway) -> None:
    assert await gateway.check() == ""


@pytest.mark.parametrize(("size", "codec", "kind"), [(1000, RAW, "raw"), (CHUNK + 1, DAG_PB, "car")])
async def test_blocks_are_asked_for_and_come(
    helia: HeliaGateway, gateway: Gateway, client: httpx.AsyncClient, size: int, codec: int, kind: str
) -> None:
    """Without this, a gateway that sends plain files would pass the tests above as well."""
    cid = helia.add(file_of(size), V1)
    seen: list[str] = []

    async def note(response: httpx.Response) -> None:
        seen.append(response.headers["Content-Type"])

    client.event_hooks["response"].append(note)
    verified = await gateway.fetch(cid, LIMITS, SECONDS)
    assert cid.codec == codec
    assert verified.content == file_of(size)
    assert [f"application/vnd.ipld.{kind}" in told for told in seen] == [True]


@pytest.mark.parametrize("size", [999, CHUNK + 2], ids=["raw", "car"])
async def test_a_root_that_helia_does_not_have_may_come_later(gateway: Gateway, size: int) -> None:
    with pytest.raises(ContentUnavailable):
        await gateway.fetch(import_file(file_of(size)).cid, LIMITS, SECONDS)


async def test_a_stream_that_is_cut_for_a_missing_block_is_no_lie(
    helia: HeliaGateway, client: httpx.AsyncClient
) -> None:
    content = file_of(5 * CHUNK + 3)
    _, blocks = import_blocks(content, V1)
    cid = helia.add(content, V1)
    helia.forget([block_cid for block_cid in blocks if block_cid.codec == RAW][3])
    standings = Standings()
    gateway = Gateway(helia.url, client, allow_private=True, standings=standings)
    with pytest.raises(ContentUnavailable):
        await gateway.fetch(cid, LIMITS, SECONDS)
    assert not standings.of(gateway.name).banned
    helia.add(content, V1)
    assert (await gateway.fetch(cid, LIMITS, SECONDS)).content == content


async def test_a_file_over_the_limit_is_given_up(helia: HeliaGateway, gateway: Gateway) -> None:
    cid = helia.add(file_of(9 * CHUNK + 7), V1)
    with pytest.raises(LimitExceeded):
        await gateway.fetch(CID.parse(str(cid)), ReadLimits(max_bytes=CHUNK), SECONDS)
