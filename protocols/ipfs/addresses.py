"""Which addresses a worker may ask: not its own machine's, and not its neighbours', unless the operator says so."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from millrace.errors import Permanent
from protocols.ipfs.errors import ContentRefused, ContentUnavailable

_HINT = "set MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS=true if this gateway is meant"


def check_url(url: str, *, allow_private: bool) -> str:
    """`url` without a slash at its end, if it may be used as the base of requests.

    Raises Permanent unless it is https (or http, with `allow_private`) with a host and nothing but a path. Only the
    host is part of the message: a password or a token may be in the rest.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Permanent("one of the IPFS gateways is not a URL", hint="check MILLRACE_IPFS__GATEWAYS") from None
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes:
        raise Permanent(f"the gateway at {parts.hostname!r} is not {' or '.join(schemes)}", hint=_HINT)
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise Permanent(f"the gateway at {parts.hostname!r} must be scheme, host, port and path only")
    return url.rstrip("/")


async def check_host(url: str) -> None:
    """Return if every address that the host of `url` has is a public one.

    Raises ContentRefused if one is not, ContentUnavailable if the name cannot be resolved.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ContentUnavailable(f"{host} cannot be resolved: {error}") from None
    for *_, address in found:
        check_address(str(address[0]), host)


def check_address(address: str, host: str) -> None:
    """Raise ContentRefused if `address`, which `host` resolved to or connected to, is not public."""
    if not is_public(address):
        raise ContentRefused(f"{host} is at {address}, which is not a public address", hint=_HINT)


def is_public(address: str) -> bool:
    """True if the IP address is one that belongs to nobody's own machine or network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_global and not ip.is_multicast
