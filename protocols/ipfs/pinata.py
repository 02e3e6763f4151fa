"""Pinata, as a sink: our exact bytes under our exact CID, or no result.

Source: https://docs.pinata.cloud/api-reference. A single raw block goes as a file: with CID version 1 there is
only one way to name it. More blocks go as a CAR, because how Pinata would cut a file is its own business.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import SecretStr

from millrace.errors import Permanent
from protocols.ipfs.backends import Published
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import ContentRefused, InvalidCID, PublishFailed, PublishRefused
from protocols.ipfs.http_limits import IDENTITY, read_capped, retry_after_seconds
from protocols.ipfs.importer import import_blocks

_MAX_ANSWER_BYTES = 65_536
_MAX_NAME_LENGTH = 200
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Pinata:
    """An account at Pinata, as a ContentSink.

    `jwt` goes to `api_url` and `uploads_url` only, in a header; `clock` gives Unix seconds. Raises Permanent if
    an address would carry the token over a network unencrypted.
    """

    name = "pinata"

    def __init__(
        self,
        jwt: SecretStr,
        client: httpx.AsyncClient,
        *,
        api_url: str = "https://api.pinata.cloud",
        uploads_url: str = "",
        timeout_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jwt = jwt
        self._client = client
        self._api_url = _secure(api_url)
        self._uploads_url = _secure(uploads_url or uploads_host_of(api_url))
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    async def check(self) -> str:
        """Return "" if Pinata accepts the token. Raises PublishRefused or PublishFailed."""
        await self._ask("GET", f"{self._api_url}/data/testAuthentication")
        return ""

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Upload and pin `content`; errors as ContentSink. Doing it again changes nothing: Pinata knows its CID."""
        label = name[:_MAX_NAME_LENGTH] or "content"
        answer = await (self._as_file(content, label) if cid.codec == RAW else self._as_car(cid, content, label))
        try:
            named = CID.parse(answer)
        except InvalidCID as error:
            raise PublishRefused(f"Pinata answered with no CID: {error.message}") from None
        if not named.names_same_as(cid):
            raise PublishRefused(f"Pinata names the content {named}, not {cid}: it is not what we sent")
        return Published(self.name, answer)

    async def _as_file(self, content: bytes, label: str) -> str:
        answer = await self._ask(
            "POST",
            f"{self._api_url}/pinning/pinFileToIPFS",
            files={"file": (label, content, "application/octet-stream")},
            data={"pinataMetadata": json.dumps({"name": label}), "pinataOptions": json.dumps({"cidVersion": 1})},
        )
        return _text(answer, "IpfsHash")

    async def _as_car(self, cid: CID, content: bytes, label: str) -> str:
        root, blocks = await asyncio.to_thread(import_blocks, content)
        if not root.names_same_as(cid):
            raise PublishRefused(f"the content is {root}, not {cid}")
        answer = await self._ask(
            "POST",
            f"{self._uploads_url}/v3/files",
            files={"file": (f"{label}.car", b"".join(write_car(root, blocks.items())), "application/vnd.ipld.car")},
            # Without `network` the file would be private, and nobody could read the result.
            data={"network": "public", "car": "true", "name": label},
        )
        return _text(answer.get("data") if isinstance(answer, dict) else None, "cid")

    async def _ask(self, method: str, url: str, **body: Any) -> Any:
        headers = {**IDENTITY, "Authorization": f"Bearer {self._jwt.get_secret_value()}"}
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(method, url, headers=headers, follow_redirects=False, **body) as response,
            ):
                self._check_status(response)
                return json.loads(await read_capped(response, _MAX_ANSWER_BYTES))
        except TimeoutError:
            raise PublishFailed(f"Pinata took longer than {self._timeout_seconds:.1f} s") from None
        except httpx.HTTPError as error:
            raise PublishFailed(f"Pinata: {type(error).__name__} {error}".rstrip()) from None
        except ContentRefused as error:
            raise PublishRefused(f"Pinata: {error.message}") from None
        except (ValueError, RecursionError):  # the latter for brackets within brackets
            raise PublishFailed("Pinata's answer is not JSON that can be read") from None

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (200, 201):
            return
        if status in (401, 403):
            raise PublishRefused(
                f"Pinata refuses our token ({status})",
                hint="set MILLRACE_IPFS__PINATA_JWT to a JWT that may pin files; make one at app.pinata.cloud",
            )
        if status in (408, 425, 429) or status >= 500:
            raise PublishFailed(
                f"Pinata answered {status}", retry_after_seconds=retry_after_seconds(response.headers, self._clock)
            )
        raise PublishRefused(f"Pinata answered {status}")


def uploads_host_of(api_url: str) -> str:
    """Where the uploads of the account at `api_url` go: Pinata has `uploads.` beside `api.`; others have one host."""
    parts = urlsplit(api_url)
    if not parts.netloc.startswith("api."):
        return api_url
    return urlunsplit(parts._replace(netloc=f"uploads.{parts.netloc.removeprefix('api.')}"))


def _secure(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Permanent("Pinata's address is not a URL", hint="check MILLRACE_IPFS__PINATA_API") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        raise Permanent("Pinata's address must be https: the token would be readable on the way")
    return url.rstrip("/")


def _text(answer: Any, field: str) -> str:
    value = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise PublishRefused(f"Pinata's answer has no {field}")
    return value
