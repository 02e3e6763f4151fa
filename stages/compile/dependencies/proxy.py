"""The one door of the container that fetches crates: an HTTP proxy on a Unix socket, for a few hosts by name.

The proxy resolves names itself, looks at every address before it connects, and connects to what it looked at: a name
that is somewhere else the next time it is asked for gains nothing. It reads the head of a request only: what goes
through a tunnel is between cargo and the registry, whose certificate cargo checks.

Source: RFC 9110, sections 9.3.6 (CONNECT) and 7.2 (Host); RFC 9112, section 3.2.2 (absolute-form).
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from millrace.errors import MillraceError
from millrace.text import printable
from stages.compile.dependencies.request import BadRequest, ProxyRequest, parse_request
from stages.compile.dependencies.rules import RegistryRules, VendorLimits
from stages.fetch.repository.address import Resolve, checked_addresses, system_resolve

SOCKET = "registry.sock"

_HEAD_BYTES = 8 * 1024
_HEAD_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_LAST_SECONDS = 5.0
_PIECE_BYTES = 64 * 1024
_NOTED_REFUSALS = 50
_LONGEST_NOTE = 200

Say = Callable[[str], None]


class DependencyProxy:
    """What one container may reach. Attributes: `folder`, which holds nothing but the socket and is what a container
    gets to see, read-only; `carried_bytes`, both ways; `refused`, what was asked for in vain, each once.
    """

    def __init__(self, folder: Path, rules: RegistryRules, limits: VendorLimits, resolve: Resolve, say: Say) -> None:
        self.folder = folder
        self.carried_bytes = 0
        self.refused: list[str] = []
        self._rules, self._limits, self._resolve, self._say = rules, limits, resolve, say
        self._connections = 0
        self._open: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, in a task of its own."""
        self._connections += 1
        if self._connections > self._limits.connections or len(self._open) >= self._limits.connections_at_once:
            total = self._connections > self._limits.connections
            self._note(f"more than {self._limits.connections} connections" if total else "too many connections at once")
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.close()
            # A client that reads nothing of what is left for it has had its time.
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await writer.wait_closed()
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse_request(head)
        except (asyncio.LimitOverrunError, BadRequest) as error:
            self._refuse(writer, 400, f"a request that is none for a proxy: {error}")
            return
        if request.authority not in self._rules.allowed:
            self._refuse(writer, 403, f"{request.authority}: not a host that crates come from")
            return
        if self.carried_bytes >= self._limits.network_bytes:
            self._refuse(writer, 403, self._too_much())
            return
        try:
            addresses = await self._addresses(request)
        except MillraceError as error:
            self._refuse(writer, 403, f"{request.authority}: {error.message}")
            return
        try:
            theirs, ours = await _connect(addresses, request.port)
        except OSError as error:
            self._refuse(writer, 502, f"{request.authority}: cannot be connected to ({error or type(error).__name__})")
            return
        try:
            await self._relay(request, reader, writer, theirs, ours)
        finally:
            ours.transport.abort()

    async def _addresses(self, request: ProxyRequest) -> list[str]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return await checked_addresses(request.host, allow_private=self._rules.allow_private, resolve=self._resolve)

    async def _relay(
        self,
        request: ProxyRequest,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        theirs: asyncio.StreamReader,
        ours: asyncio.StreamWriter,
    ) -> None:
        """Carry bytes until the registry is done, nothing moves any more, or it is too much."""
        async with asyncio.timeout(self._limits.idle_seconds) as patience:
            down = asyncio.ensure_future(self._carry(theirs, writer, patience))
            if request.forwarded is not None:
                # One request a connection, without a body: what else the client sends goes nowhere.
                ours.write(request.forwarded)
                up = None
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                up = asyncio.ensure_future(self._carry_up(reader, ours, patience))
            try:
                await down
            finally:
                ways = [way for way in (down, up) if way is not None]
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_up(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, patience: asyncio.Timeout
    ) -> None:
        await self._carry(source, sink, patience)
        sink.write_eof()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, patience: asyncio.Timeout) -> None:
        """From one side to the other; too much of it ends both ways."""
        while piece := await source.read(_PIECE_BYTES):
            self.carried_bytes += len(piece)
            if self.carried_bytes > self._limits.network_bytes:
                self._note(self._too_much())
                patience.reschedule(0)  # now
                return
            patience.reschedule(asyncio.get_running_loop().time() + self._limits.idle_seconds)
            sink.write(piece)
            await sink.drain()

    def _too_much(self) -> str:
        return f"more than {self._limits.network_bytes} bytes in all"

    def _refuse(self, writer: asyncio.StreamWriter, status: int, why: str) -> None:
        note = self._note(why)
        body = f"Millrace lets nothing through to this: {note}\n".encode()
        head = f"HTTP/1.1 {status} Refused\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def _note(self, why: str) -> str:
        note = printable(why, _LONGEST_NOTE)
        if note not in self.refused and len(self.refused) < _NOTED_REFUSALS:
            self.refused.append(note)
            self._say(f"refused: {note}")
        return note


async def _connect(addresses: list[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first of the addresses that takes one. Raises OSError, also for want of time."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_connection(address, port)
        except OSError as error:  # of which TimeoutError is one
            failure = error
    raise failure


@asynccontextmanager
async def dependency_proxy(
    rules: RegistryRules,
    limits: VendorLimits,
    *,
    resolve: Resolve = system_resolve,
    say: Say = lambda line: None,
    folder: Path | None = None,
) -> AsyncIterator[DependencyProxy]:
    """A proxy for one container, gone with the `async with` block, and its connections and its folder with it.

    `say` hears of each thing refused. The socket lies in a folder that nobody else on this machine gets into: in
    `folder`, which Docker must see under the same name, or else where temporary files lie. Raises OSError if it cannot
    be made.
    """
    with _door(folder) as (door, listening):
        proxy = DependencyProxy(door, rules, limits, resolve, say)
        server = await asyncio.start_unix_server(proxy.accept, sock=listening, limit=_HEAD_BYTES)
        try:
            yield proxy
        finally:
            server.close()
            await proxy.close()


@contextmanager
def _door(folder: Path | None) -> Iterator[tuple[Path, socket.socket]]:
    """A folder with nothing but a socket in it, and the socket."""
    with tempfile.TemporaryDirectory(prefix="millrace-proxy-", dir=folder) as private:  # made 0700
        door = Path(private, "door")
        door.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            _bind(listening, door)
            # The container's user is another one: it may go in and connect, and only the container has the way there.
            door.chmod(0o711)
            (door / SOCKET).chmod(0o666)
            yield door, listening


def _bind(listening: socket.socket, door: Path) -> None:
    """Give the socket its name in that folder, whose own name may be longer than the 107 bytes of an address."""
    fd = os.open(door, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{fd}/{SOCKET}")
    finally:
        os.close(fd)
