"""ipfshttpclient, made usable with today's daemons and libraries.

The constructor is used, not `connect`: that one complains about every daemon newer than 0.8. Each call gets a
client of its own, so that threads share nothing.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ipfshttpclient
import requests
import urllib3
from ipfshttpclient import exceptions

from millrace.errors import Permanent
from millrace.limits import MIB
from millrace.text import printable
from protocols.ipfs.errors import ContentUnavailable

_PIECE_BYTES = 65_536
_MAX_ANSWER_BYTES = 8 * MIB
"""Of any answer but a streamed one: a block has at most 2 MiB, and a list of pins is asked for one CID only."""

_BROKEN = (
    exceptions.Error,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    AssertionError,  # the library asserts that an answer has as many items as it expects
    KeyError,  # it reads the message of an error that may have none
    RecursionError,  # it reads JSON of any depth
)


class DaemonRefused(Permanent):
    """The daemon answered with an error of its own."""


class HangUp:
    """Ends the connections of a client whose answer nobody waits for any more; may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected: list[socket.socket] = []
        self._called = False

    def __call__(self) -> None:
        """Hang up, on connections yet to be made as well: whoever reads sees the end of the stream."""
        with self._lock:
            self._called = True
            for connected in self._connected:
                _shut(connected)

    def watch(self, connected: socket.socket) -> None:
        """Take a connection that was just made."""
        with self._lock:
            self._connected.append(connected)
            if self._called:
                _shut(connected)


@contextmanager
def daemon_client(multiaddr: str, timeout_seconds: float, hang_up: HangUp | None = None) -> Iterator[Any]:
    """A client with an open connection; `timeout_seconds` bounds each wait for the daemon, and each whole answer.

    `hang_up` ends all that waits for the daemon at once. Errors leave as ours, see `as_our_errors`; Permanent if the
    address is none.
    """
    with as_our_errors(multiaddr), ipfshttpclient.Client(multiaddr, timeout=timeout_seconds) as client:
        _quieten(client)
        _cap_answers(client, time.monotonic() + timeout_seconds)
        _watch_connections(client, hang_up or HangUp())
        yield client


@contextmanager
def as_our_errors(multiaddr: str) -> Iterator[None]:
    """Whatever the library raises inside leaves as ours.

    ContentUnavailable if the daemon cannot be reached, breaks off or answers with what is no answer, DaemonRefused
    with what it said, Permanent if the address is none.
    """
    try:
        yield
    except exceptions.AddressError:
        raise Permanent("the IPFS daemon's address is not usable", hint="e.g. /ip4/127.0.0.1/tcp/5001") from None
    except exceptions.ErrorResponse as error:
        raise DaemonRefused(f"the daemon says: {_short(error)}") from None
    except _BROKEN as error:
        raise ContentUnavailable(
            f"the daemon at {multiaddr} cannot be talked to: {_short(error)}", hint="is it running, and its API there?"
        ) from None


def pieces_of(stream: Any) -> Iterator[bytes]:
    """The body of a streamed answer as it arrives.

    The client's own iteration waits for all of a body whose length is known, however long that is or takes.
    """
    response: requests.Response = stream._closables[0]
    while piece := response.raw.read1(_PIECE_BYTES, decode_content=False):
        yield piece


def _quieten(client: Any) -> None:
    """Take an argument out of the connection pools that urllib3 2 ignores with a warning, once a request."""
    session = client._client._session
    session.max_redirects = 0  # the RPC API has none
    session.trust_env = False  # a local daemon is not behind a proxy, and no password of ~/.netrc is its business
    for adapter in session.adapters.values():
        adapter.poolmanager.connection_pool_kw.pop("strict", None)


def _cap_answers(client: Any, deadline: float) -> None:
    """Have answers read piece by piece up to a cap: the library takes all that comes, for as long as it comes."""
    session = client._client._session
    session.headers["Accept-Encoding"] = "identity"

    def cap(response: requests.Response, *_: Any, **__: Any) -> None:
        response.iter_content = partial(_capped, response, deadline)  # type: ignore[method-assign]

    session.hooks["response"].append(cap)


def _capped(response: requests.Response, deadline: float, *_: Any, **__: Any) -> Iterator[bytes]:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ContentUnavailable("the daemon's answer is compressed, which was not asked for")
    total_bytes = 0
    while piece := response.raw.read1(_PIECE_BYTES, decode_content=False):
        total_bytes += len(piece)
        if total_bytes > _MAX_ANSWER_BYTES:
            raise ContentUnavailable(f"the daemon's answer has more than {_MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise ContentUnavailable("the daemon did not send all of its answer in time")
        yield piece


def _watch_connections(client: Any, hang_up: HangUp) -> None:
    """Have each connection told to `hang_up`: a connection in use cannot be found through its pool."""
    for adapter in set(client._client._session.adapters.values()):
        pools = adapter.poolmanager.pool_classes_by_scheme
        watched = {scheme: _watched(pool, hang_up) for scheme, pool in pools.items()}
        adapter.poolmanager.pool_classes_by_scheme = watched


def _watched(pool: Any, hang_up: HangUp) -> type:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            hang_up.watch(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):  # it has ended
        # Not the method of a TLS socket, which another thread may be reading from.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _short(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", 300)
