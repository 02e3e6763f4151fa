"""A daemon's address as ipfshttpclient wants it, from what operators write."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from millrace.errors import Permanent


def daemon_multiaddr(address: str) -> str:
    """`address`, a multiaddr or an http(s) URL, as a multiaddr. Raises Permanent if it is neither."""
    if address.startswith("/"):
        return address
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 5001, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        port = 0
    if not port or not parts.hostname or parts.path.rstrip("/") or parts.username:
        raise Permanent("the IPFS daemon's address is not usable", hint="e.g. /ip4/127.0.0.1/tcp/5001")
    return f"/{_protocol(parts.hostname)}/{parts.hostname}/tcp/{port}/{parts.scheme}"


def _protocol(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"
