"""How a stand-in misbehaves when asked to, and the layer around it that does so."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localnet.gzip_bomb import gzip_bomb

_PIECE_BYTES = 65_536
CONTROL_PATH = "/_localnet/faults"
_DETAILS = ("times", "path", "headers", "answer_type", "reason")
_HTML = b"<!doctype html><title>Bad gateway</title><p>Something went wrong.\n"


class Faults(BaseModel):
    """What goes wrong with the next answers; the default is nothing.

    `POST /_localnet/faults` with this as JSON sets it, `GET` shows it, and `POST` of `{}` ends it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    times: int = Field(default=-1, description="How many answers it is about; -1 for all")
    path: str = Field(default="", description="Only answers to requests whose path contains this")
    status: int = Field(default=0, description="Answer with this status and no work done, e.g. 429 or 500")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers added, e.g. Retry-After")
    redirect_to: str = Field(default="", description="Answer 302 with this Location")
    html: bool = Field(default=False, description="Answer 200 with a web page")
    answer_base64: str = Field(default="", description="Answer 200 with these bytes instead")
    answer_type: str = Field(default="application/octet-stream", description="Their Content-Type")
    wrong_bytes: bool = Field(default=False, description="Flip one bit in the middle of the body")
    cut: bool = Field(default=False, description="Close the connection after half of the body")
    gzip: bool = Field(default=False, description="Compress the body although nobody asked")
    hang_seconds: float = Field(default=0.0, description="Wait this long before the answer")
    drip_seconds: float = Field(default=0.0, description="Send one byte at a time with this wait between them")
    other_cid: bool = Field(default=False, description="Name other content than what was uploaded")
    endless: bool = Field(default=False, description="Never end the body: send its bytes over and over")
    padding_bytes: int = Field(default=0, description="Send this many zero bytes behind the body, and say so")
    gzip_bomb_bytes: int = Field(default=0, description="Send this many zero bytes instead, compressed to a few")
    reason: str = Field(default="FAULT", description="What the error body of `status` gives as its reason")
    pin_error: str = Field(default="", description="Take content but do not pin it, with this message (RPC, pinning)")
    never_pinned: bool = Field(default=False, description="Take content, and never list it as pinned (Pinata, pinning)")

    @property
    def spoils(self) -> bool:
        """Whether an answer is made, and then sent otherwise than it should be."""
        changed = self.wrong_bytes or self.gzip or self.padding_bytes or self.gzip_bomb_bytes
        return bool(changed or self.cut or self.drip_seconds or self.endless)

    def names(self) -> list[str]:
        """What goes wrong, in the words under which it is counted: the fields that are set, or the HTTP status."""
        wrong = [name for name in type(self).model_fields if name not in _DETAILS and getattr(self, name)]
        return [str(self.status) if name == "status" else name for name in wrong]


@dataclass
class Service:
    """One stand-in's state: its faults, and the requests it got."""

    faults: Faults = field(default_factory=Faults)
    requests: deque[tuple[str, str, dict[str, str]]] = field(default_factory=lambda: deque(maxlen=1000))
    """Method, path with query, and headers, of the last thousand requests."""
    served: Counter[str] = field(default_factory=Counter)
    """How many answers each fault was in, by `Faults.names`."""
    then: deque[Faults] = field(default_factory=deque)
    """What goes wrong when `faults` are used up, without a good answer between."""

    def misbehave(self, *faults: Faults) -> None:
        """From now on these go wrong, each when those before it are used up; nothing if there are none."""
        first, *then = faults or [Faults()]
        self.faults, self.then = first, deque(then)

    def take(self, path: str) -> Faults:
        """The faults for one answer to a request for `path`, which count as used."""
        faults = self.faults
        if faults.times == 0 or faults.path not in path:
            return Faults()
        if faults.times > 0:
            left = faults.times - 1
            self.faults = self.then.popleft() if self.then and not left else faults.model_copy(update={"times": left})
        self.served.update(faults.names())
        return faults


class Faulty:
    """An ASGI application that misbehaves as `service.faults` say."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["path"] == CONTROL_PATH:
            await self._control(scope, receive, send)
            return
        self._note(scope)
        faults = self._service.take(scope["path"])
        if faults.hang_seconds:
            await asyncio.sleep(faults.hang_seconds)
        scope["faults"] = faults
        replaced = _replacement(faults)
        if replaced is not None:
            await replaced(scope, receive, send)
        elif faults.spoils:
            await _spoil(self._app, faults, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _note(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        self._service.requests.append((scope["method"], scope["path"] + (f"?{query}" if query else ""), headers))

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        try:
            if scope["method"] == "POST":
                self._service.misbehave(Faults.model_validate_json(await _body(receive) or b"{}"))
            response = JSONResponse(self._service.faults.model_dump())
        except ValidationError as error:
            response = JSONResponse({"error": error.errors(include_url=False, include_input=False)}, 422)
        await response(scope, receive, send)


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _replacement(faults: Faults) -> Response | None:
    if faults.status:
        return JSONResponse({"error": {"reason": faults.reason}}, faults.status, headers=faults.headers)
    if faults.redirect_to:
        return Response(status_code=302, headers={"Location": faults.redirect_to, **faults.headers})
    if faults.answer_base64:
        return Response(base64.b64decode(faults.answer_base64), media_type=faults.answer_type, headers=faults.headers)
    if faults.html:
        return Response(_HTML, media_type="text/html", headers=faults.headers)
    return None


async def _spoil(app: ASGIApp, faults: Faults, scope: Scope, receive: Receive, send: Send) -> None:
    """Let `app` answer, and send a spoilt copy of what it said."""
    said: list[Message] = []

    async def hear(message: Message) -> None:
        said.append(message)

    await app(scope, receive, hear)
    start: dict[str, Any] = dict(said[0])
    body = b"".join(message.get("body", b"") for message in said[1:])
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    if faults.wrong_bytes and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    if faults.gzip or faults.gzip_bomb_bytes:
        body = gzip_bomb(faults.gzip_bomb_bytes) if faults.gzip_bomb_bytes else gzip.compress(body)
        headers.append((b"content-encoding", b"gzip"))
    if not faults.endless:
        headers.append((b"content-length", str(len(body) + faults.padding_bytes).encode()))
    start["headers"] = headers
    await send(start)
    if faults.endless:
        await _send_for_ever(body or b"endless", receive, send)
        return
    if faults.cut:
        # Returning without the last message makes the server close the connection.
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        return
    if faults.drip_seconds:
        for index in range(len(body)):
            await send({"type": "http.response.body", "body": body[index : index + 1], "more_body": True})
            await asyncio.sleep(faults.drip_seconds)
        body = b""
    for sent_bytes in range(0, faults.padding_bytes, _PIECE_BYTES):
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = bytes(min(_PIECE_BYTES, faults.padding_bytes - sent_bytes))
    await send({"type": "http.response.body", "body": body})


async def _send_for_ever(body: bytes, receive: Receive, send: Send) -> None:
    """Send until the other side has had enough."""
    piece = body * (_PIECE_BYTES // len(body) + 1)
    gone = asyncio.create_task(_until_gone(receive))
    while not gone.done():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
