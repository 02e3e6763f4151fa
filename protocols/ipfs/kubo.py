"""A kubo daemon through its RPC API, as a source and as a sink.

Source: https://docs.ipfs.tech/reference/kubo/rpc/. Content goes in and out as CARs, which keep our exact CIDs
whatever import options the daemon is configured with; what comes out is verified like a stranger's.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from typing import TypeVar

from protocols.ipfs.backends import Published
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable, PublishFailed, PublishRefused, TruncatedCar
from protocols.ipfs.importer import import_blocks
from protocols.ipfs.kubo_address import daemon_multiaddr
from protocols.ipfs.kubo_answers import imported_root, pinned, version_in
from protocols.ipfs.kubo_client import DaemonRefused, HangUp, daemon_client, pieces_of
from protocols.ipfs.reader import ReadLimits, verified
from protocols.ipfs.threads import in_thread
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState
from protocols.ipfs.verified import CarCollector, Verified

T = TypeVar("T")

_CHECK_SECONDS = 10.0


class KuboDaemon:
    """The daemon at `address`, a multiaddr or URL. `clock` gives seconds and never goes back.

    Raises Permanent if the address is not usable.
    """

    name = "daemon"

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = 60.0,
        records: UploadRecords | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._multiaddr = daemon_multiaddr(address)
        self._records = records
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    async def check(self) -> str:
        """The version that the daemon reports; errors as ContentPlace."""
        return await _called(self._version)

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        """The content named `cid`, which the daemon may have to find in the network first; errors as ContentSource."""
        return await self._given(lambda h: self._export(cid, limits, timeout_seconds, h), timeout_seconds)

    async def fetch_block(self, cid: CID, timeout_seconds: float) -> bytes:
        """One block; errors as ContentSource."""
        return await self._given(lambda h: self._block(cid, timeout_seconds, h), timeout_seconds)

    async def _given(self, get: Callable[[HangUp], T], timeout_seconds: float) -> T:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await _called(get)
        except TimeoutError:
            raise ContentUnavailable(f"{self.name} did not answer within {timeout_seconds:.1f} s") from None
        except DaemonRefused as error:
            # It does not say why in a way a program could tell; not having found it is the usual reason.
            raise ContentUnavailable(f"{self.name}: {error.message}") from None
        except TruncatedCar as error:
            raise ContentUnavailable(f"{self.name} broke off: {error.message}") from None

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Import `content` into the daemon and see it pinned, unless it is; errors as ContentSink."""
        upload = Upload.of(cid, content, self.name)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                car = await in_thread(lambda: _car_of(cid, content))
                if not await _called(lambda h: self._has_pinned(cid, h)):
                    self._note(upload, UploadState.sending)
                    await _called(lambda h: self._import(cid, car, h))
            self._note(upload, UploadState.pinned)
            return Published(self.name, str(cid))
        except TimeoutError:
            raise PublishFailed(f"{self.name} took longer than {self._timeout_seconds:.1f} s") from None
        except ContentUnavailable as error:
            raise PublishFailed(error.message, hint=error.hint) from None
        except DaemonRefused as error:
            raise PublishFailed(f"{self.name} did not take {cid}: {error.message}") from None

    def _version(self, hang_up: HangUp) -> str:
        with daemon_client(self._multiaddr, min(self._timeout_seconds, _CHECK_SECONDS), hang_up) as client:
            return f"version {version_in(client.version())}"

    def _block(self, cid: CID, timeout_seconds: float, hang_up: HangUp) -> bytes:
        with daemon_client(self._multiaddr, timeout_seconds, hang_up) as client:
            block: bytes = client.block.get(str(cid))
        return verified(cid, lambda _: block)

    def _export(self, cid: CID, limits: ReadLimits, timeout_seconds: float, hang_up: HangUp) -> Verified:
        deadline = self._clock() + timeout_seconds
        collector = CarCollector(cid, limits)
        with (
            daemon_client(self._multiaddr, timeout_seconds, hang_up) as client,
            client.dag.export(str(cid), stream=True) as stream,
        ):
            for piece in pieces_of(stream):
                # The client's own time-out is for each piece, and a slow enough daemon never meets it.
                if self._clock() > deadline:
                    raise ContentUnavailable(f"{self.name} did not send all within {timeout_seconds:.1f} s")
                collector.feed(piece)
        return collector.read()

    def _note(self, upload: Upload, state: UploadState) -> None:
        if self._records is not None:
            self._records.note(upload, state)

    def _has_pinned(self, cid: CID, hang_up: HangUp) -> bool:
        try:
            with daemon_client(self._multiaddr, self._timeout_seconds, hang_up) as client:
                pins = pinned(client.pin.ls(str(cid), type="recursive"))
        except DaemonRefused:
            return False  # that is how it says that something is not pinned
        return any(pin.names_same_as(cid) for pin in pins)

    def _import(self, cid: CID, car: bytes, hang_up: HangUp) -> None:
        with daemon_client(self._multiaddr, self._timeout_seconds, hang_up) as client:
            named = imported_root(client.dag.imprt(io.BytesIO(car), opts={"pin-roots": "true"}))
            if not named.names_same_as(cid):
                raise PublishRefused(f"{self.name} names the content {named}, not {cid}")
        if not self._has_pinned(cid, hang_up):
            raise PublishFailed(f"{self.name} does not list {cid} among its pins")


async def _called(call: Callable[[HangUp], T]) -> T:
    """The result of a call to the daemon; its thread ends with whoever waits for it."""
    hang_up = HangUp()
    return await in_thread(lambda: call(hang_up), given_up=hang_up)


def _car_of(cid: CID, content: bytes) -> bytes:
    root, blocks = import_blocks(content)
    if not root.names_same_as(cid):
        raise PublishRefused(f"the content is {root}, not {cid}")
    return b"".join(write_car(root, blocks.items()))
