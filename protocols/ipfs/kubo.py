"""A kubo daemon through its RPC API, as a source and as a sink.

Source: https://docs.ipfs.tech/reference/kubo/rpc/. Content goes in and out as CARs, which keep our exact CIDs
whatever import options the daemon is configured with; what comes out is verified like a stranger's.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable

from protocols.ipfs.backends import Published
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable, PublishFailed, PublishRefused, TruncatedCar
from protocols.ipfs.importer import import_blocks
from protocols.ipfs.kubo_address import daemon_multiaddr
from protocols.ipfs.kubo_answers import imported_root, pinned, version_in
from protocols.ipfs.kubo_client import DaemonRefused, daemon_client, pieces_of
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.threads import in_thread
from protocols.ipfs.verified import CarCollector, Verified

_CHECK_SECONDS = 10.0


class KuboDaemon:
    """The daemon at `address`, a multiaddr or URL. `clock` gives seconds and never goes back.

    Raises Permanent if the address is not usable.
    """

    name = "daemon"

    def __init__(
        self, address: str, *, timeout_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._multiaddr = daemon_multiaddr(address)
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    async def check(self) -> str:
        """The version that the daemon reports; errors as ContentPlace."""
        return await in_thread(self._version)

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        """The content named `cid`, which the daemon may have to find in the network first; errors as ContentSource."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await in_thread(lambda: self._export(cid, limits, timeout_seconds))
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {timeout_seconds:.1f} s") from None
        except DaemonRefused as error:
            # It does not say why in a way a program could tell; not having found it is the usual reason.
            raise ContentUnavailable(f"{self.name}: {error.message}") from None
        except TruncatedCar as error:
            raise ContentUnavailable(f"{self.name} broke off: {error.message}") from None

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Import `content` into the daemon and see it pinned; errors as ContentSink."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await in_thread(lambda: self._import(cid, content))
        except TimeoutError:
            raise PublishFailed(f"{self.name} took longer than {self._timeout_seconds:.1f} s") from None
        except ContentUnavailable as error:
            raise PublishFailed(error.message, hint=error.hint) from None
        except DaemonRefused as error:
            raise PublishFailed(f"{self.name} did not take {cid}: {error.message}") from None

    def _version(self) -> str:
        with daemon_client(self._multiaddr, min(self._timeout_seconds, _CHECK_SECONDS)) as client:
            return f"version {version_in(client.version())}"

    def _export(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        deadline = self._clock() + timeout_seconds
        collector = CarCollector(cid, limits)
        with (
            daemon_client(self._multiaddr, timeout_seconds) as client,
            client.dag.export(str(cid), stream=True) as stream,
        ):
            for piece in pieces_of(stream):
                # The client's own time-out is for each piece, and a slow enough daemon never meets it.
                if self._clock() > deadline:
                    raise ContentUnavailable(f"{self.name} did not send all within {timeout_seconds:.1f} s")
                collector.feed(piece)
        return collector.read()

    def _import(self, cid: CID, content: bytes) -> Published:
        root, blocks = import_blocks(content)
        if not root.names_same_as(cid):
            raise PublishRefused(f"the content is {root}, not {cid}")
        car = b"".join(write_car(root, blocks.items()))
        with daemon_client(self._multiaddr, self._timeout_seconds) as client:
            named = imported_root(client.dag.imprt(io.BytesIO(car), opts={"pin-roots": "true"}))
            if not named.names_same_as(cid):
                raise PublishRefused(f"{self.name} names the content {named}, not {cid}")
            pins = pinned(client.pin.ls(str(cid), type="recursive"))
        if not any(pin.names_same_as(cid) for pin in pins):
            raise PublishFailed(f"{self.name} does not list {cid} among its pins")
        return Published(self.name, str(named))
