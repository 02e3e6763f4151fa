"""How a file is cut into blocks. The CID depends on it, so the ways in use have names.

Sources: kubo's `ipfs add` options and import profiles; IPIP-499 (https://specs.ipfs.tech/ipips/ipip-0499/).
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to import a file: balanced trees of `width` links over chunks of `chunk_bytes`."""

    name: str
    cid_version: int
    raw_leaves: bool
    chunk_bytes: int = 256 * KIB
    width: int = 174
    wrap_single_leaf: bool = False


V0 = Profile("v0-256k-174", cid_version=0, raw_leaves=False)
"""`ipfs add`, kubo's profile unixfs-v0-2015."""

V1 = Profile("v1-raw-256k-174", cid_version=1, raw_leaves=True)
"""`ipfs add --cid-version=1 --raw-leaves`. Up to 256 KiB it is one raw block, which a single SHA-256 verifies."""

V1_2025 = Profile("v1-2025-1m-1024", cid_version=1, raw_leaves=True, chunk_bytes=1024 * KIB, width=1024)
"""kubo's profile unixfs-v1-2025; Helia's default."""

V1_PB = Profile("v1-pb-256k-174", cid_version=1, raw_leaves=False)
"""`ipfs add --cid-version=1 --raw-leaves=false`."""

V1_WRAPPED = Profile("v1-raw-256k-174-noreduce", cid_version=1, raw_leaves=True, wrap_single_leaf=True)
"""As V1, but a file of one chunk gets a root of its own above it."""

PROFILES = {profile.name: profile for profile in (V1, V0, V1_2025, V1_PB, V1_WRAPPED)}
"""Every profile by its name, the likeliest first."""
