"""js-ipfs as a daemon and as a gateway of the old kind."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from ipfs_peers import CHUNK, SIZES, JsIpfs, file_of

from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.importer import import_file
from protocols.ipfs.kubo import KuboDaemon
from protocols.ipfs.kubo_client import DaemonRefused, daemon_client
from protocols.ipfs.profiles import PROFILES, V1_2025, V1_WRAPPED, Profile
from protocols.ipfs.reader import ReadLimits

pytestmark = pytest.mark.ipfs

LIMITS = ReadLimits(max_bytes=16 << 20)
SECONDS = 20.0
JS_PROFILES = [profile for profile in PROFILES.values() if profile != V1_WRAPPED]
"""js-ipfs cannot be told to wrap a single leaf."""


@pytest.fixture
def daemon(js_ipfs: JsIpfs) -> KuboDaemon:
    return KuboDaemon(js_ipfs.rpc_url, timeout_seconds=SECONDS)


@pytest.fixture
def legacy_gateway(js_ipfs: JsIpfs, client: httpx.AsyncClient) -> Gateway:
    return Gateway(js_ipfs.gateway_url, client, allow_private=True)


def add(client: Any, content: bytes, profile: Profile) -> CID:
    added = client.add(
        io.BytesIO(content),
        cid_version=profile.cid_version,
        raw_leaves=profile.raw_leaves,
        chunker=f"size-{profile.chunk_bytes}",
        pin=False,
    )
    return CID.parse(added["Hash"])


async def test_the_daemon_tells_its_version(daemon: KuboDaemon) -> None:
    assert await daemon.check() == "version 0.18.1"


@pytest.mark.parametrize("size", [0, 1000, CHUNK, CHUNK + 1, 9 * CHUNK + 7])
async def test_what_is_published_has_our_cid_there_is_pinned_and_comes_back(
    js_ipfs: JsIpfs, daemon: KuboDaemon, size: int
) -> None:
    content = file_of(size)
    cid = import_file(content).cid
    published = await daemon.publish(cid, content, "result")
    assert CID.parse(published.cid) == cid
    with daemon_client(js_ipfs.multiaddr, SECONDS) as client:
        assert client.cat(str(cid)) == content
        pins = client.pin.ls(type="recursive")["Keys"]
    assert cid in {CID.parse(name).to_v1() for name in pins}
    assert (await daemon.fetch(cid, LIMITS, SECONDS)).content == content
    assert await daemon.publish(cid, content, "result") == published


@pytest.mark.parametrize("profile", JS_PROFILES, ids=[profile.name for profile in JS_PROFILES])
async def test_js_ipfs_names_files_of_every_size_as_we_do_and_exports_them(
    js_ipfs: JsIpfs, daemon: KuboDaemon, legacy_gateway: Gateway, profile: Profile
) -> None:
    """js-ipfs always builds trees of width 174: with fewer chunks than that, the 1,024 of 2025 make no difference."""
    assert max(SIZES) < 174 * V1_2025.chunk_bytes
    for size in SIZES:
        content = file_of(size)
        with daemon_client(js_ipfs.multiaddr, SECONDS) as client:
            cid = add(client, content, profile)
        assert cid.names_same_as(import_file(content, profile).cid), size
        assert (await daemon.fetch(cid, LIMITS, SECONDS)).content == content, size
        assert (await legacy_gateway.fetch(cid, LIMITS, SECONDS)).content == content, size


async def test_content_that_the_daemon_does_not_have_may_come_later(
    js_ipfs: JsIpfs, daemon: KuboDaemon, legacy_gateway: Gateway
) -> None:
    for size in (999, CHUNK + 2):
        cid = import_file(file_of(size)).cid
        with pytest.raises(ContentUnavailable):
            await daemon.fetch(cid, LIMITS, 0.5)
        with pytest.raises(ContentUnavailable):
            await legacy_gateway.fetch(cid, LIMITS, 0.5)


def test_what_the_daemon_refuses_is_told(js_ipfs: JsIpfs) -> None:
    with (
        pytest.raises(DaemonRefused, match="Invalid request query input"),
        daemon_client(js_ipfs.multiaddr, SECONDS) as client,
    ):
        client.cat("nonsense")
