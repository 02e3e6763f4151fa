"""What a server of JSON may do wrong besides its JSON."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localnet.http_server import Connection, StandInServer
from millrace.errors import Transient
from protocols.computechain.rpc import ComputeChainRpc
from protocols.http_json import JsonServer


class _Moved(Connection):
    def on_get(self) -> None:
        self.reply(302, b"moved", {"location": "mailto:x"})


@pytest.fixture
def server() -> Iterator[StandInServer]:
    running = StandInServer(0, _Moved, "moved")
    running.start()
    yield running
    running.stop()


async def test_a_redirect_to_what_is_no_url_is_transient(server: StandInServer) -> None:
    """httpx reads a Location even where it does not follow it, and its error for this one is none of HTTP's."""
    asked = JsonServer("a server", timeout_seconds=5)
    with pytest.raises(Transient, match="InvalidURL"):
        await asked.ask("GET", server.url)
    await asked.close()


async def test_so_it_is_where_events_are_awaited(server: StandInServer) -> None:
    async with ComputeChainRpc([server.url]) as rpc:
        with pytest.raises(Transient, match="InvalidURL"):
            await anext(rpc.events())
