"""A way to a validator, whatever the transport: messages come in, answers go out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from millrace.errors import Permanent, Transient
from protocols.validator.messages import Incoming

WEBSOCKET_SCHEMES = ("ws", "wss")
HTTP_SCHEMES = ("http", "https")

NOT_LET_IN = (401, 403)


class ValidatorLink(Protocol):
    """An open link. Both methods raise Transient once it is broken: open another one."""

    def messages(self) -> AsyncIterator[Incoming]:
        """What the validator says, as it comes; ends never, but by an error."""
        ...

    async def deliver(self, message: str) -> None:
        """Return once the validator has the message, as far as its protocol lets us know.

        Raises Undeliverable if it says that it will never take this one, NotNow if it does not take it yet,
        NobodyThere if the link is broken and this message had no part in it.
        """
        ...


OpenLink = Callable[[], AbstractAsyncContextManager[ValidatorLink]]
"""Opens a link. Entering raises Transient if the validator cannot be reached now, Permanent if it lets us in never."""


class Undeliverable(Permanent):
    """The validator has seen a message and refuses it for good."""


class NotNow(Transient):
    """The validator does not take this message yet; others may fare better over the same link."""


class NobodyThere(Transient):
    """The validator answers nothing at all: no message is to blame."""


def authorization(token: str) -> dict[str, str]:
    """The header that shows `token` as a bearer token (RFC 6750); none if it is empty.

    Raises Permanent, not quoting it, if it cannot travel in a header.
    """
    if any(not "!" <= character <= "~" for character in token):
        raise Permanent(
            "MILLRACE_VALIDATOR__TOKEN has characters that no bearer token has", hint="a space, or the end of a line?"
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


def ensure_let_in(status: int, label: str) -> None:
    """Raises Permanent if the HTTP status says that the validator `label` does not know us."""
    if status in NOT_LET_IN:
        raise Permanent(f"{label} does not let us in: status {status}", hint="check MILLRACE_VALIDATOR__TOKEN")


def validator_label(url: str) -> str:
    """Host and port of the validator's address, which may be printed and names it; a key may travel in the rest.

    Raises Permanent, not quoting it, if it is no address of a validator.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        httpx.URL(url)
        (host or "").encode("idna")  # what looking it up would stumble over
    except (ValueError, httpx.InvalidURL):
        host = port = None
        parts = urlsplit("")
    if not host or parts.scheme not in (*WEBSOCKET_SCHEMES, *HTTP_SCHEMES):
        raise Permanent(
            "MILLRACE_VALIDATOR__URL is no ws, wss, http or https URL", hint="wss://validator.example/worker, say"
        )
    return f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
