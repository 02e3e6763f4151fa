"""A repository's address as Git is told it."""

from __future__ import annotations

from stages.fetch.repository.address import parse_address, pin
from stages.fetch.repository.limits import GitRules

RULES = GitRules(hosts=("::1", "source.invalid"), allow_private=True)


async def test_an_ipv6_host_stays_in_its_brackets() -> None:
    """Without them the port was read as a part of the address."""
    address = parse_address("http://[::1]:8080/a/b", RULES)
    assert address.url == "http://[::1]:8080/a/b"
    assert parse_address(address.url, RULES) == address

    async def resolve(host: str) -> list[str]:
        assert host == "::1"
        return ["::1", "127.0.0.1"]

    assert await pin(address, RULES, resolve) == "[::1]:8080:[::1],127.0.0.1"
