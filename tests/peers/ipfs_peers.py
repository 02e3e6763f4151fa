"""How the tests talk to the peers, and what they give them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

from protocols.ipfs.cid import CID
from protocols.ipfs.profiles import KIB, Profile

CHUNK = 256 * KIB
SIZES = (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 4 * CHUNK - 1, 4 * CHUNK, 4 * CHUNK + 1, 9 * CHUNK + 7)
"""Around every border at which a file gets one block more under one of the profiles."""


@dataclass(frozen=True)
class JsIpfs:
    """A js-ipfs daemon: its RPC API and its gateway, which knows nothing of `format`."""

    rpc_url: str
    gateway_url: str

    @property
    def multiaddr(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.rpc_url.rpartition(':')[2]}/http"


@dataclass(frozen=True)
class HeliaGateway:
    """A trustless gateway made of Helia."""

    url: str

    def add(self, content: bytes, profile: Profile) -> CID:
        """The CID that Helia gives `content` when it imports it as `profile` says."""
        asked = {
            "cidVersion": profile.cid_version,
            "rawLeaves": str(profile.raw_leaves).lower(),
            "chunkBytes": profile.chunk_bytes,
            "width": profile.width,
            "reduce": str(not profile.wrap_single_leaf).lower(),
        }
        answer = httpx.post(f"{self.url}/add", params=asked, content=content, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return CID.parse(answer.text)

    def forget(self, cid: CID) -> None:
        """Remove one block, so that what is above it has a hole."""
        httpx.delete(f"{self.url}/block/{cid}", timeout=30, trust_env=False).raise_for_status()


def file_of(size: int) -> bytes:
    """Bytes that nobody else has, the same in every run."""
    return random.Random(f"peers {size}").randbytes(size)
