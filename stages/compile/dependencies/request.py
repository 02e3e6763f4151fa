"""The head of a request to a proxy, read strictly: what is in any way unusual is no request."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
_CONNECT = re.compile(rf"CONNECT ({_HOST}):([0-9]{{1,5}}) HTTP/1\.[01]", re.ASCII)
_GET = re.compile(rf"(GET|HEAD) http://({_HOST})(?::([0-9]{{1,5}}))?(/[\x21-\x7e]*) HTTP/1\.1", re.ASCII)
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)", re.ASCII)
_NOT_PASSED_ON = frozenset(
    {"host", "connection", "proxy-connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
    | {"authorization", "proxy-authorization", "cookie"}
)
_BODY = frozenset({"content-length", "transfer-encoding"})


class BadRequest(Exception):
    """Not something that a proxy does; the message says why."""


@dataclass(frozen=True)
class ProxyRequest:
    """Where a request goes. `forwarded` is what is sent there first; None for a tunnel."""

    host: str
    port: int
    forwarded: bytes | None = None

    @property
    def authority(self) -> str:
        """host:port, in lower case."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_request(head: bytes) -> ProxyRequest:
    """The request with this head, which ends with an empty line. Raises BadRequest.

    A GET in the absolute form is put into the form that the server itself expects, with the host that was asked for and
    nothing that tells who asks or keeps the connection.
    """
    try:
        line, *rest = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequest("not ASCII") from None
    fields = [_field(text) for text in rest]
    if tunnel := _CONNECT.fullmatch(line):
        return ProxyRequest(_host(tunnel[1]), _port(tunnel[2]))
    plain = _GET.fullmatch(line)
    if plain is None:
        raise BadRequest("neither CONNECT host:port nor GET http://host/")
    if any(name in _BODY for name, _ in fields):
        raise BadRequest("a GET with a body")
    kept = "".join(f"{name}: {value}\r\n" for name, value in fields if name not in _NOT_PASSED_ON)
    request = ProxyRequest(_host(plain[2]), _port(plain[3] or "80"))
    text = f"{plain[1]} {plain[4]} HTTP/1.1\r\nhost: {request.authority}\r\nconnection: close\r\n{kept}\r\n"
    return ProxyRequest(request.host, request.port, text.encode())


def _field(text: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(text)
    if found is None:
        raise BadRequest("a badly formed header")
    return found[1].lower(), found[2].strip()


def _host(text: str) -> str:
    return text.lower().strip("[]")


def _port(text: str) -> int:
    if not 0 < int(text) < 65_536:
        raise BadRequest("no such port")
    return int(text)
