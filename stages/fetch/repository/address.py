"""Where a repository is: which addresses are asked at all, and at which IP addresses."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from millrace.errors import Declined, DeclineReason, Transient
from protocols.ipfs.addresses import is_public
from stages.fetch.repository.limits import GitRules

_LONGEST_URL = 512
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~+-]+)+/?", re.ASCII)
_PORTS = {"https": 443, "http": 80}

Resolve = Callable[[str], Awaitable[list[str]]]
"""The IP addresses of a host name; OSError if it has none."""


@dataclass(frozen=True)
class Address:
    """A repository's address, taken apart and put together again from nothing but what we know."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The only form of it that Git is told."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{_bracketed(self.host)}{port}{self.path}"


def parse_address(repo: str, rules: GitRules) -> Address:
    """The address that `repo`, a URL, stands for. Raises Declined (not_allowed) if it is not one to be asked.

    No part of a URL that has a password in it is repeated in a message.
    """
    # A space at its beginning is left out by one reader of URLs and taken for a part by another.
    plain = len(repo) <= _LONGEST_URL and repo.isascii() and repo.isprintable() and " " not in repo
    try:
        parts = urlsplit(repo) if plain else None
        port = parts.port if parts else None
    except ValueError:
        parts = port = None
    if parts is None:
        raise _declined("the repository's address is not a URL")
    if "@" in repo:
        raise _declined("the repository's address holds a user name or a password", "none is ever sent: leave it out")
    if parts.scheme not in (("https", "http") if rules.allow_private else ("https",)):
        raise _declined(f"the repository's address begins with {parts.scheme!r}", "only https:// is fetched")
    host = (parts.hostname or "").lower()
    if host not in rules.hosts:
        raise _declined(f"{host!r} is no host to fetch from", f"allowed: {', '.join(rules.hosts) or 'none'}")
    if not rules.allow_private and port not in (None, 443):
        raise _declined(f"the repository is at port {port} of {host}", "only port 443 is asked")
    if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
        raise _declined("the repository's path has something unusual in it", f"as in https://{host}/owner/name")
    return Address(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


async def pin(address: Address, rules: GitRules, resolve: Resolve) -> str:
    """The IP addresses to connect to, as curl's `host:port:address,…`: what was checked is what is used.

    Raises Declined (not_allowed) if one of them is private and that is not allowed, Transient if the name has none.
    """
    found = await checked_addresses(address.host, allow_private=rules.allow_private, resolve=resolve)
    return f"{_bracketed(address.host)}:{address.port}:{','.join(map(_bracketed, found))}"


async def checked_addresses(host: str, *, allow_private: bool, resolve: Resolve) -> list[str]:
    """The IP addresses that `host` has now, every one of which may be connected to; raises as `pin` does."""
    try:
        found = list(dict.fromkeys(await resolve(host)))
    except OSError as error:
        raise Transient(f"{host} cannot be resolved: {error}", hint="check the name servers") from None
    for ip in found:
        if not allow_private and not is_public(ip):
            raise _declined(f"{host} is at {ip}, which is not a public address", "no such host is asked")
    return found


async def system_resolve(host: str) -> list[str]:
    """The addresses that the system's resolver knows for `host`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _bracketed(host: str) -> str:
    """A host as a URL has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _declined(message: str, hint: str = "name it as https://host/owner/name") -> Declined:
    return Declined(message, reason=DeclineReason.not_allowed, hint=hint)
