"""The IPFS that Millrace's demo, development and tests use: every outside party on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from localnet.ipfs.blockstore import BlockStore
from localnet.ipfs.faults import Faults, Faulty, Service
from localnet.ipfs.gateways import gateway_app
from localnet.ipfs.pinata import pinata_app
from localnet.ipfs.pinning_service import pinning_service_app
from localnet.ipfs.rpc import rpc_app

JWT = "localnet.pinata.jwt"
"""Token of the one account at the stand-in for Pinata; it opens nothing else."""

SERVICES = ("rpc", "gateway", "legacy_gateway", "pinata", "pinning_service")

_START_SECONDS = 10.0


class IpfsLocalnet:
    """A kubo daemon, a trustless and a legacy gateway, Pinata and a pinning service, over the blocks in `store_dir`.

    A context manager; between `start` and `stop` it serves from a thread of its own, so that it works in any
    program. `ports` gives a service's port by its name in `services`; the others get a free one.
    Raises OSError if a port is taken.
    """

    def __init__(self, store_dir: Path, ports: Mapping[str, int] | None = None) -> None:
        self.store = BlockStore(store_dir)
        self.pinata_jwt = JWT
        self.services = {name: Service() for name in SERVICES}
        self._ports = dict(ports or {})
        self._sockets: dict[str, socket.socket] = {}
        self._servers: list[uvicorn.Server] = []
        self._thread: threading.Thread | None = None

    @property
    def rpc_url(self) -> str:
        """Base URL of the daemon's RPC API."""
        return self._url("rpc")

    @property
    def gateway_url(self) -> str:
        """Base URL of the trustless gateway."""
        return self._url("gateway")

    @property
    def legacy_gateway_url(self) -> str:
        """Base URL of the gateway that knows no formats."""
        return self._url("legacy_gateway")

    @property
    def pinata_url(self) -> str:
        """Base URL of Pinata's API, old and new."""
        return self._url("pinata")

    @property
    def pinning_service_url(self) -> str:
        """Base URL of the pinning service, which knows Pinata's token."""
        return self._url("pinning_service")

    def add(self, content: bytes) -> str:
        """Put a file into the network and return its CID."""
        return str(self.store.add(content))

    def misbehave(self, service: str, *faults: Faults) -> None:
        """Let a service misbehave from now on, in these ways one after the other, or behave again."""
        self.services[service].misbehave(*faults)

    def start(self) -> Self:
        """Begin to serve; when it returns, every port takes connections, which are answered a moment later."""
        apps = {
            "rpc": rpc_app(self.store),
            "gateway": gateway_app(self.store, trustless=True),
            "legacy_gateway": gateway_app(self.store, trustless=False),
            "pinata": pinata_app(self.store, self.pinata_jwt),
            "pinning_service": pinning_service_app(self.store, self.pinata_jwt),
        }
        try:
            for name in apps:
                self._sockets[name] = socket.create_server(("127.0.0.1", self._ports.get(name, 0)))
        except OSError:
            self.stop()
            raise
        self._servers = [_server(Faulty(app, self.services[name])) for name, app in apps.items()]
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="ipfs-localnet", daemon=True
        )
        self._thread.start()
        if not started.wait(_START_SECONDS):
            self.stop()
            raise TimeoutError("the IPFS localnet did not start")
        return self

    def stop(self) -> None:
        """Stop serving, unfinished answers included."""
        for server in self._servers:
            server.should_exit = server.force_exit = True
        if self._thread is not None:
            self._thread.join(_START_SECONDS)
        for listening in self._sockets.values():
            listening.close()
        self._servers, self._thread = [], None
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _url(self, name: str) -> str:
        host, port = self._sockets[name].getsockname()
        return f"http://{host}:{port}"

    async def _serve(self, started: threading.Event) -> None:
        serving = [
            asyncio.create_task(server.serve(sockets=[listening]))
            for server, listening in zip(self._servers, self._sockets.values(), strict=True)
        ]
        started.set()
        await asyncio.gather(*serving)


def _server(app: ASGIApp) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", ws="none", access_log=False)
    )
