"""What was handed to which service, on disk before and after: a flow run that was killed asks before it sends again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocols.ipfs.atomic import disk_of, write_atomically
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.multibase import encode_base32
from protocols.ipfs.profiles import V1

KEPT_SECONDS = 30 * 86_400.0
"""Far longer than any flow run is retried. Content uploaded again later may be sent again, which changes nothing."""

_logger = logging.getLogger(__name__)


class UploadState(StrEnum):
    """How far an upload came."""

    sending = "sending"  # it may or may not have arrived
    pinning = "pinning"  # the service has accepted it
    pinned = "pinned"


class Upload(BaseModel):
    """One content at one service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cid: str
    profile: str = Field(description="How the file was cut into blocks; `raw` for a single one")
    size: int = Field(description="Bytes of the file")
    service: str
    requestid: str = Field(default="", description="By which the service knows it, if it gave one")
    state: UploadState = UploadState.sending

    @classmethod
    def of(cls, cid: CID, content: bytes, service: str) -> Self:
        """The record of `content`, named `cid` under V1, before it is handed over."""
        profile = "raw" if cid.codec == RAW else V1.name
        return cls(cid=str(cid), profile=profile, size=len(content), service=service)


class UploadRecords:
    """The records in `folder`, one file each; the last word about a content and a service replaces the one before.

    Each record that is written takes those beside it along that are older than KEPT_SECONDS by `clock` (Unix seconds).
    Raises StoreFault if one cannot be kept.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def find(self, cid: CID, service: str) -> Upload | None:
        """What is known, or None if it was never handed over."""
        try:
            return Upload.model_validate_json(self._path(cid, service).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _logger.warning("%s cannot be read: the service will be asked", self._path(cid, service))
            return Upload(cid=str(cid), profile="", size=0, service=service)

    def note(self, upload: Upload, state: UploadState, requestid: str = "") -> None:
        """Keep a record with this state, on the disk when this returns."""
        upload = upload.model_copy(update={"state": state, "requestid": requestid})
        path = self._path(CID.parse(upload.cid), upload.service)
        with disk_of(self._folder):
            write_atomically(path, [upload.model_dump_json().encode()])
            self._forget_old(path.parent)

    def _forget_old(self, folder: Path) -> None:
        """Remove the old records of one of the thousand folders, and what killed writers left there."""
        oldest = self._clock() - KEPT_SECONDS
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another flow run did it
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _path(self, cid: CID, service: str) -> Path:
        name = encode_base32(cid.multihash)
        return self._folder / name[-3:-1] / f"{name}.{service.replace(' ', '-')}.json"
