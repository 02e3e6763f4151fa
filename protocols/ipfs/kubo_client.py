"""ipfshttpclient, made usable with today's daemons and libraries.

The constructor is used, not `connect`: that one complains about every daemon newer than 0.8. Each call gets a
client of its own, so that threads share nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def daemon_client(multiaddr: str, timeout_seconds: float) -> Iterator[Any]:
    """A client with an open connection; `timeout_seconds` bounds each wait for the daemon, and each whole answer.

    Its errors leave as ours, see `as_our_errors`; Permanent if the address is none.
    """
    with as_our_errors(multiaddr), ipfshttpclient.Client(multiaddr, timeout=timeout_seconds) as client:
        _quieten(client)
        _cap_answers(client, time.monotonic() + timeout_seconds)
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


def _short(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", 300)
