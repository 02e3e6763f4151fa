"""Pinata, as a sink: our exact bytes under our exact CID, or no result.

Source: https://docs.pinata.cloud/api-reference. A single raw block goes as a file: with CID version 1 there is
only one way to name it. More blocks go as a CAR, because how Pinata would cut a file is its own business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from pydantic import SecretStr

from protocols.ipfs.backends import Published
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import InvalidCID, PublishRefused
from protocols.ipfs.importer import import_blocks
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.service import NotFound, ServiceClient, TokenRefused, secure_url
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState

_SETTING = "MILLRACE_IPFS__PINATA_API"
_MAX_NAME_LENGTH = 200
_MAX_ID_LENGTH = 1000

_logger = logging.getLogger(__name__)


class Pinata:
    """An account at Pinata, as a ContentSink.

    `jwt` goes to `api_url` and `uploads_url` only, in a header; `records` is where is noted what was sent; `clock`
    gives Unix seconds. Raises Permanent if an address would carry the token over a network unencrypted.
    """

    name = "pinata"

    def __init__(
        self,
        jwt: SecretStr,
        client: httpx.AsyncClient,
        *,
        records: UploadRecords,
        polling: PinPolling,
        api_url: str = "https://api.pinata.cloud",
        uploads_url: str = "",
        timeout_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api_url = secure_url(api_url, service="Pinata", setting=_SETTING)
        self._uploads_url = secure_url(uploads_url or uploads_host_of(api_url), service="Pinata", setting=_SETTING)
        self._records = records
        self._polling = polling
        self._service = ServiceClient(
            "Pinata",
            jwt,
            client,
            timeout_seconds=timeout_seconds,
            mending="set MILLRACE_IPFS__PINATA_JWT to a JWT that may pin files; make one at app.pinata.cloud",
            clock=clock,
        )

    async def check(self) -> str:
        """Return what is weak about the token, or "". Raises PublishRefused if Pinata refuses it, PublishFailed."""
        await self._service.ask("GET", f"{self._api_url}/data/testAuthentication")
        try:
            await self._service.ask("GET", f"{self._api_url}/data/pinList", params={"pageLimit": "1"})
        except TokenRefused:
            return "but the token may not list pins: what Pinata says right after an upload has to do"
        return ""

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Upload `content` and see it pinned; errors as ContentSink. What is pinned already is not sent again."""
        upload = Upload.of(cid, content, self.name)
        requestid = await self._kept_before(cid)
        if requestid is None:
            self._records.note(upload, UploadState.sending)
            requestid = await self._send(cid, content, name[:_MAX_NAME_LENGTH] or "content")
            self._records.note(upload, UploadState.pinning, requestid)
            await self._polling.until_told(lambda: self._confirmed(cid, requestid or ""), f"at Pinata, {cid}")
        self._records.note(upload, UploadState.pinned, requestid)
        return Published(self.name, str(cid))

    async def _kept_before(self, cid: CID) -> str | None:
        """Pinata's id of content that we sent before and that it still has pinned; None if it has to be sent."""
        before = self._records.find(cid, self.name)
        if before is None:
            return None
        try:
            return before.requestid if await self._is_pinned(cid, before.requestid) else None
        except TokenRefused:
            return None

    async def _confirmed(self, cid: CID, requestid: str) -> bool | None:
        try:
            return await self._is_pinned(cid, requestid) or None
        except TokenRefused:
            _logger.warning("the token may not list what Pinata has: its word for %s has to do", cid)
            return True

    async def _is_pinned(self, cid: CID, requestid: str) -> bool:
        """Whether Pinata lists the content among what is public: by the API through which it went there."""
        if cid.codec == RAW:
            wanted = {"cid": str(cid), "status": "pinned", "includeCount": "false"}
            listed = _items(await self._service.ask("GET", f"{self._api_url}/data/pinList", params=wanted), "rows")
            return any(_names(row.get("ipfs_pin_hash"), cid) and not row.get("date_unpinned") for row in listed)
        if requestid:
            try:
                answer = await self._service.ask("GET", f"{self._api_url}/v3/files/public/{quote(requestid, safe='')}")
            except NotFound:
                return False
            record = answer.get("data") if isinstance(answer, dict) else None
            if isinstance(record, dict) and "cid" in record and record["cid"] is None:
                return False  # it is still at work on the file
            return _names(_text(record, "cid"), cid)
        answer = await self._service.ask("GET", f"{self._api_url}/v3/files/public", params={"cid": str(cid)})
        listed = _items(answer.get("data") if isinstance(answer, dict) else None, "files")
        return any(_names(file.get("cid"), cid) for file in listed)

    async def _send(self, cid: CID, content: bytes, label: str) -> str:
        """Upload; returns Pinata's id of it, if it gave one. Raises PublishRefused if it names other content."""
        answer = await (self._as_file(content, label) if cid.codec == RAW else self._as_car(cid, content, label))
        told = _text(answer, "IpfsHash" if cid.codec == RAW else "cid")
        try:
            named = CID.parse(told)
        except InvalidCID as error:
            raise PublishRefused(f"Pinata answered with no CID: {error.message}") from None
        if not named.names_same_as(cid):
            raise PublishRefused(f"Pinata names the content {named}, not {cid}: it is not what we sent")
        given = answer.get("id") if isinstance(answer, dict) else None
        return given if isinstance(given, str) and len(given) <= _MAX_ID_LENGTH else ""

    async def _as_file(self, content: bytes, label: str) -> Any:
        return await self._service.ask(
            "POST",
            f"{self._api_url}/pinning/pinFileToIPFS",
            files={"file": (label, content, "application/octet-stream")},
            data={"pinataMetadata": json.dumps({"name": label}), "pinataOptions": json.dumps({"cidVersion": 1})},
        )

    async def _as_car(self, cid: CID, content: bytes, label: str) -> Any:
        root, blocks = await asyncio.to_thread(import_blocks, content)
        if not root.names_same_as(cid):
            raise PublishRefused(f"the content is {root}, not {cid}")
        answer = await self._service.ask(
            "POST",
            f"{self._uploads_url}/v3/files",
            files={"file": (f"{label}.car", b"".join(write_car(root, blocks.items())), "application/vnd.ipld.car")},
            # Without `network` the file would be private, and nobody could read the result.
            data={"network": "public", "car": "true", "name": label},
        )
        return answer.get("data") if isinstance(answer, dict) else None


def uploads_host_of(api_url: str) -> str:
    """Where the uploads of the account at `api_url` go: Pinata has `uploads.` beside `api.`; others have one host."""
    parts = urlsplit(api_url)
    if not parts.netloc.startswith("api."):
        return api_url
    return urlunsplit(parts._replace(netloc=f"uploads.{parts.netloc.removeprefix('api.')}"))


def _text(answer: Any, field: str) -> str:
    value = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise PublishRefused(f"Pinata's answer has no {field}")
    return value


def _items(answer: Any, field: str) -> list[dict[str, Any]]:
    listed = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise PublishRefused(f"Pinata's answer has no {field}")
    return [item for item in listed if isinstance(item, dict)]


def _names(told: Any, cid: CID) -> bool:
    try:
        return CID.parse(str(told)).names_same_as(cid)
    except InvalidCID:
        return False
