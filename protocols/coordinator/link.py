"""The way to one coordinator: JSON over HTTP with a bearer token, its statuses as errors of ours.

What a call finds nothing for (204, 404, 409) is an answer of that call and no error: see `Link.call`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from millrace.errors import Permanent, Transient
from millrace.limits import MIB
from millrace.redaction import register_secret
from millrace.text import printable
from protocols.http_json import Content, Form, JsonServer, Unreadable, origin_of, parsed
from protocols.ipfs.service import secure_url
from protocols.near.contract import compact

MOST_BODY_BYTES = 10 * MIB
"""Of a request: a coordinator takes no more."""

MOST_ANSWER_BYTES = 16 * MIB
"""Of an answer in JSON."""

_SETTING = "MILLRACE_COORDINATOR__URL"
_HINT = "is it an OffchainVM coordinator?"
_NOT_LET_IN = (401, 403)
_TRY_AGAIN = (408, 425)

M = TypeVar("M", bound=BaseModel)


class NotLetIn(Permanent):
    """The coordinator does not know our token, or wants a session that we do not have."""


class Refused(Permanent):
    """The coordinator has understood a call and refuses it; `status` is HTTP's."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Link:
    """A coordinator at `url`, which carries no account and no query; `token` may be empty if it wants none.

    After a call that failed no connection of before is used again: a coordinator that was started anew leaves behind
    connections that look alive and never answer.
    Raises Permanent if the URL cannot be one, or would carry the token over a network unencrypted.
    """

    def __init__(self, url: str, token: SecretStr, *, timeout_seconds: float) -> None:
        origin = origin_of(url)
        if origin is None:
            raise Permanent("the coordinator's address is not an http or https URL", hint=f"check {_SETTING}")
        secret = token.get_secret_value()
        if secret:
            secure_url(url, service="the coordinator", setting=_SETTING)
            if not (secret.isascii() and secret.isprintable()):
                raise Permanent("the coordinator's token has characters that no header can hold")
            register_secret(secret)
        self.label = f"the coordinator at {origin}"
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._timeout_seconds = timeout_seconds
        self._server = self._connect()
        self._calls: dict[JsonServer, int] = {}
        """How many calls are on their way; one that has none left and is not `_server` is closed."""

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()

    def use_session(self, session_id: str | None) -> None:
        """Show this session with every call from now on, or none."""
        register_secret(session_id or "")
        self._headers.pop("X-TEE-Session", None)
        if session_id:
            self._headers["X-TEE-Session"] = session_id

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        form: Form | None = None,
        nothing: Collection[int] = (),
        timeout_seconds: float | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> Content | None:
        """The answer if its status is below 300; None if it is one of `nothing`.

        `path` is printed if the call fails: no secret may be in it. Raises Transient if there is no answer now (the
        coordinator may have done what it was asked all the same), NotLetIn, Refused; Permanent, before anything is
        sent, if the body is too large or no JSON.
        """
        _check_sendable(body)
        async with self._connected() as server:
            said = await server.fetch(
                method,
                path,
                body,
                form=form,
                headers=self._headers,
                timeout_seconds=timeout_seconds,
                most_bytes=most_bytes,
            )
        if said.status in nothing:
            return None
        if said.status < 300:
            return said
        asked = f"{method} {printable(path.partition('?')[0], 200)}"
        if said.status in _NOT_LET_IN:
            raise NotLetIn(
                f"{self.label} does not let us in: status {said.status} to {asked}",
                hint="check MILLRACE_COORDINATOR__TOKEN; executions may also need a registered session",
            )
        if said.status in _TRY_AGAIN:
            raise Transient(f"{self.label} answers {asked} with the status {said.status}")
        why = printable(said.content[:400].decode(errors="replace"), 200)
        raise Refused(
            f"{self.label} refuses {asked}: status {said.status}{f', {why}' if why else ''}",
            status=said.status,
            hint="it may speak the other of the two APIs" if said.status in (404, 405) else "",
        )

    async def document(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        nothing: Collection[int] = (),
        timeout_seconds: float | None = None,
    ) -> Any:
        """The JSON of the answer; None as `call` has it. Raises as `call` does, and Unreadable."""
        said = await self.call(method, path, body, nothing=nothing, timeout_seconds=timeout_seconds)
        # Not every coordinator says "none" by its status: some answer 200 and `null`.
        return None if said is None or said.status == 204 else parsed(said.content, self.label, _HINT)

    async def read(self, model: type[M], method: str, path: str, body: Any = None) -> M:
        """The answer as a model. Raises as `document` does."""
        return self.understood(model, await self.document(method, path, body), f"{method} {path.partition('?')[0]}")

    def understood(self, model: type[M], document: Any, asked: str) -> M:
        """The document as a model. Raises Unreadable, which names what is wrong."""
        try:
            return model.model_validate(document)
        except ValidationError as error:
            raise Unreadable(f"{self.label} answers {asked} with {faults_of(error)}", hint=_HINT) from None

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[JsonServer]:
        server = self._server
        self._calls[server] = self._calls.get(server, 0) + 1
        try:
            yield server
        except Transient:
            if self._server is server:
                self._server = self._connect()
            raise
        finally:
            self._calls[server] -= 1
            if not self._calls[server]:
                del self._calls[server]
                if self._server is not server:
                    await server.close()

    def _connect(self) -> JsonServer:
        return JsonServer(self.label, base_url=self._url, timeout_seconds=self._timeout_seconds, hint=_HINT)


def faults_of(error: ValidationError) -> str:
    """What is wrong with a document, member by member, without what it holds; fit to be printed."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    told = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the document'}: {fault['msg']}" for fault in faults[:8])
    return printable(told, 500)


def _check_sendable(body: Any) -> None:
    try:
        length_bytes = len(compact(body))
    except (ValueError, RecursionError):
        raise Permanent(
            "this cannot be told to a coordinator: it holds what JSON or UTF-8 has no place for",
            hint="infinity, half a surrogate pair, or too deep a nesting",
        ) from None
    if length_bytes > MOST_BODY_BYTES:
        raise Permanent(
            f"{length_bytes} bytes are more than a coordinator takes, which are {MOST_BODY_BYTES}",
            hint="answer with a CID, or with less",
        )
