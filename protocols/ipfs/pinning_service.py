"""The Pinning Service API, as a sink: it sends nothing, the service fetches the content itself from who has it.

Source: https://ipfs.github.io/pinning-services-api-spec/. So it helps only beside a place that others can fetch from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from millrace.text import printable
from protocols.ipfs.backends import Published
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import InvalidCID, PublishFailed, PublishRefused
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.service import NotFound, ServiceClient, secure_url
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState

_T = TypeVar("_T", bound=BaseModel)

_MAX_NAME_LENGTH = 255
_SETTING = "MILLRACE_IPFS__PINNING_SERVICE"


class _Status(StrEnum):
    queued = "queued"
    pinning = "pinning"
    pinned = "pinned"
    failed = "failed"


_BEST_FIRST = (_Status.pinned, _Status.pinning, _Status.queued, _Status.failed)


class _Pin(BaseModel):
    cid: str


class _PinStatus(BaseModel):
    model_config = ConfigDict(extra="ignore")

    requestid: str = Field(min_length=1, max_length=1000)
    status: _Status
    pin: _Pin
    info: dict[str, str] | None = None


class _PinResults(BaseModel):
    results: list[_PinStatus] = Field(max_length=1000)


class PinningService:
    """An account at the pinning service whose API is at `url`, as a ContentSink.

    `records` is where is noted what was asked for; `clock` gives Unix seconds. Raises Permanent if the address would
    carry the token over a network unencrypted.
    """

    name = "pinning service"

    def __init__(
        self,
        url: str,
        token: SecretStr,
        client: httpx.AsyncClient,
        *,
        records: UploadRecords,
        polling: PinPolling,
        timeout_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = secure_url(url, service="the pinning service", setting=_SETTING)
        self._records = records
        self._polling = polling
        self._service = ServiceClient(
            "the pinning service",
            token,
            client,
            timeout_seconds=timeout_seconds,
            mending=f"set {_SETTING}_TOKEN to a token that may add pins",
            clock=clock,
        )

    async def check(self) -> str:
        """Return "" if the service accepts the token. Raises PublishRefused or PublishFailed."""
        _read(_PinResults, await self._service.ask("GET", f"{self._url}/pins", params={"limit": "1"}))
        return ""

    async def publish(self, cid: CID, content: bytes, name: str) -> Published:
        """Have the content pinned, which another place must provide; errors as ContentSink.

        Asks first what the service knows of this CID: pinning it again would only make a second request of it.
        """
        asked = await self._known(cid) or await self._ask_to_pin(cid, name)
        if asked.status is _Status.failed:
            asked = await self._ask_to_pin(cid, name, replacing=asked.requestid)
        upload = Upload.of(cid, content, self.name)
        self._records.note(upload, UploadState.pinning, asked.requestid)
        if asked.status is not _Status.pinned:
            asked = await self._polling.until_told(lambda: self._settled(cid, asked.requestid), str(cid))
        if asked.status is _Status.failed:
            details = printable((asked.info or {}).get("status_details", "it does not say why"), 200)
            raise PublishFailed(
                f"the pinning service could not pin {cid}: {details}",
                hint="it fetches content itself: can others read from the daemon or from Pinata?",
            )
        self._records.note(upload, UploadState.pinned, asked.requestid)
        return Published(self.name, asked.pin.cid)

    async def _known(self, cid: CID) -> _PinStatus | None:
        """The best there is of the requests for this CID, the one of our record first."""
        record = self._records.find(cid, self.name)
        if record is not None and record.requestid:
            try:
                return await self._status(cid, record.requestid)
            except NotFound:
                pass  # somebody removed it there
        statuses = ",".join(_BEST_FIRST)
        answer = await self._service.ask("GET", f"{self._url}/pins", params={"cid": str(cid), "status": statuses})
        found = [status for status in _read(_PinResults, answer).results if _names(status, cid)]
        return min(found, key=lambda status: _BEST_FIRST.index(status.status), default=None)

    async def _ask_to_pin(self, cid: CID, name: str, *, replacing: str = "") -> _PinStatus:
        path = f"pins/{quote(replacing, safe='')}" if replacing else "pins"
        wanted = {"cid": str(cid), "name": name[:_MAX_NAME_LENGTH]}
        return _same(_read(_PinStatus, await self._service.ask("POST", f"{self._url}/{path}", json=wanted)), cid)

    async def _status(self, cid: CID, requestid: str) -> _PinStatus:
        answer = await self._service.ask("GET", f"{self._url}/pins/{quote(requestid, safe='')}")
        return _same(_read(_PinStatus, answer), cid)

    async def _settled(self, cid: CID, requestid: str) -> _PinStatus | None:
        try:
            found = await self._status(cid, requestid)
        except NotFound:
            return None  # it said yes a moment ago: not every server of theirs knows yet
        return found if found.status in (_Status.pinned, _Status.failed) else None


def _read(model: type[_T], answer: object) -> _T:
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise PublishFailed("the pinning service's answer is not what its API says") from None


def _names(status: _PinStatus, cid: CID) -> bool:
    try:
        return CID.parse(status.pin.cid).names_same_as(cid)
    except InvalidCID:
        return False


def _same(status: _PinStatus, cid: CID) -> _PinStatus:
    if not _names(status, cid):
        raise PublishRefused(f"the pinning service speaks of {printable(status.pin.cid, 100)}, not of {cid}")
    return status
