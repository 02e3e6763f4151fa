"""A remote service that keeps content for an account: who may see its token, and what its answers mean to us.

Error bodies are those of Pinata and of the Pinning Service API alike: {"error": {"reason": ..., "details": ...}}.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from millrace.errors import Permanent
from millrace.text import printable
from protocols.ipfs.errors import ContentRefused, PublishFailed, PublishRefused
from protocols.ipfs.http_limits import IDENTITY, read_capped, retry_after_seconds

_MAX_ANSWER_BYTES = 262_144
_MAX_ERROR_BYTES = 16_384
_TRY_AGAIN = frozenset({408, 425, 429})
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class NotFound(PublishRefused):
    """The service knows nothing of what it was asked about."""


class TokenRefused(PublishRefused):
    """The token may not do this, or nothing at all."""


class ServiceClient:
    """The account behind `token` at the service that people call `name`.

    The token goes only to the addresses that are asked, in a header, and never through a redirect; `mending` says
    where to get a better one; `clock` gives Unix seconds.
    """

    def __init__(
        self,
        name: str,
        token: SecretStr,
        client: httpx.AsyncClient,
        *,
        timeout_seconds: float,
        mending: str,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._token = token
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._mending = mending
        self._clock = clock

    async def ask(self, method: str, url: str, **body: Any) -> Any:
        """The answer to one request, from JSON.

        Raises PublishFailed if trying again may help, NotFound for 404, TokenRefused for 401 and 403, else
        PublishRefused.
        """
        headers = {**IDENTITY, "Authorization": f"Bearer {self._token.get_secret_value()}"}
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(method, url, headers=headers, follow_redirects=False, **body) as response,
            ):
                if response.status_code not in (200, 201, 202):
                    await self._refused(response)
                return json.loads(await read_capped(response, _MAX_ANSWER_BYTES))
        except TimeoutError:
            raise PublishFailed(f"{self._name} took longer than {self._timeout_seconds:.1f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PublishFailed(f"{self._name}: {type(error).__name__} {error}".rstrip()) from None
        except ContentRefused as error:
            raise PublishRefused(f"{self._name}: {error.message}") from None
        except (ValueError, RecursionError):
            raise PublishFailed(f"{self._name}'s answer is not JSON") from None

    async def _refused(self, response: httpx.Response) -> NoReturn:
        status = response.status_code
        if status in _TRY_AGAIN or status >= 500:
            raise PublishFailed(
                f"{self._name} answered {status}{await _reason(response)}",
                retry_after_seconds=retry_after_seconds(response.headers, self._clock),
            )
        told = f"{self._name} answered {status}{await _reason(response)}"
        if status in (401, 403):
            raise TokenRefused(f"{self._name} refuses our token ({status})", hint=self._mending)
        if status == 404:
            raise NotFound(told)
        hint = "the account cannot pay for more" if status in (402, 409) else ""
        raise PublishRefused(told, hint=hint)


def secure_url(url: str, *, service: str, setting: str) -> str:
    """`url` without a slash at its end. Raises Permanent if it would carry a token over a network unencrypted."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Permanent(f"{service}'s address is not a URL", hint=f"check {setting}") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        raise Permanent(f"{service}'s address must be https: the token would be readable on the way")
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise Permanent(f"{service}'s address must be scheme, host, port and path only", hint=f"check {setting}")
    return url.rstrip("/")


async def _reason(response: httpx.Response) -> str:
    """What the service says, as far as it says it in the usual form and in few words."""
    with suppress(ContentRefused, ValueError, RecursionError):
        said = json.loads(await read_capped(response, _MAX_ERROR_BYTES))
        error = said.get("error") if isinstance(said, dict) else None
        words = [error.get(field) for field in ("reason", "details")] if isinstance(error, dict) else [error]
        told = ": ".join(word for word in words if isinstance(word, str) and word)
        return f": {printable(told, 200)}" if told else ""
    return ""
