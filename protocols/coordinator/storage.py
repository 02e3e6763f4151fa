"""What workers share through a coordinator, in both APIs: compiled modules, and locks on compiling them."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, StrictBool

from millrace.errors import Permanent
from protocols.coordinator.link import MOST_BODY_BYTES, Link
from protocols.http_json import Form

MOST_WASM_BYTES = MOST_BODY_BYTES - 8192
"""Of a module: a coordinator takes no longer request, and there is a form around it."""

_MAGIC = b"\0asm"
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


class WasmRefused(Permanent):
    """These bytes are not the module they are said to be: build it anew."""


class _Exists(BaseModel):
    model_config = ConfigDict(frozen=True)

    exists: StrictBool


class _Acquired(BaseModel):
    model_config = ConfigDict(frozen=True)

    acquired: StrictBool


class WasmFiles:
    """The modules that a coordinator keeps. All calls raise Transient, NotLetIn and Refused as `Link.call` does.

    They are kept under a checksum of 64 hex digits, a cache key that says nothing about the bytes: whoever may upload
    may put anything there. Keep the SHA-256 of what was built, and have it compared. `most_bytes` is the cap.
    """

    def __init__(self, link: Link, most_bytes: int = MOST_WASM_BYTES) -> None:
        self._link = link
        self._most_bytes = most_bytes

    async def exists(self, checksum: str) -> bool:
        """Whether there is a module under that checksum."""
        return (await self._link.read(_Exists, "GET", f"/wasm/exists/{_checked(checksum)}")).exists

    async def download(self, checksum: str, *, content_sha256: str | None = None) -> bytes | None:
        """The module under that checksum; None if there is none.

        Raises WasmRefused if it is no module, or its SHA-256 is not `content_sha256`; Unreadable, a Transient, above
        the cap.
        """
        path = f"/wasm/{_checked(checksum)}"
        said = await self._link.call("GET", path, nothing=(204, 404), most_bytes=self._most_bytes)
        if said is None:
            return None
        self._check(said.content)
        found = hashlib.sha256(said.content).hexdigest()
        if content_sha256 is not None and found != content_sha256.lower():
            raise WasmRefused(f"{self._link.label} has other bytes under {checksum}: their SHA-256 is {found}")
        return said.content

    async def upload(
        self, checksum: str, content: bytes, *, repo_url: str, commit_hash: str, build_target: str | None = None
    ) -> None:
        """Put a module there, in the place of one that is there; only the later API knows a `build_target`.

        Raises WasmRefused, before anything is sent, if it is no module or too large; Permanent if a name is empty.
        """
        _checked(checksum)
        self._check(content)
        if not repo_url or not commit_hash:
            raise Permanent("a module is uploaded with its repository and commit")
        fields = {"checksum": checksum, "repo_url": repo_url, "commit_hash": commit_hash}
        if build_target is not None:
            fields["build_target"] = build_target
        file = (f"{checksum}.wasm", content, "application/wasm")
        await self._link.call("POST", "/wasm/upload", form=Form(fields, {"wasm_file": file}))

    def _check(self, content: bytes) -> None:
        if len(content) > self._most_bytes:
            raise WasmRefused(f"the module has {len(content)} bytes, more than a coordinator keeps")
        if not content.startswith(_MAGIC):
            raise WasmRefused("the module does not begin as WebAssembly does")


class BuildLocks:
    """Locks that end by themselves. All calls raise Transient, NotLetIn and Refused as `Link.call` does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def acquire(self, lock_key: str, worker_id: str, ttl_seconds: int) -> bool:
        """Whether the lock is ours now, for `ttl_seconds`. False as well if the coordinator's database is down.

        After a Transient it may be ours without our knowing; it ends by itself.
        """
        body = {"lock_key": lock_key, "worker_id": worker_id, "ttl_seconds": ttl_seconds}
        return (await self._link.read(_Acquired, "POST", "/locks/acquire", body)).acquired

    async def release(self, lock_key: str) -> None:
        """Give a lock back, if there is one: release only your own and before it ends, nobody checks whose it is."""
        # One segment of the path: a slash as it is would make it another address, and the lock would stay.
        await self._link.call("DELETE", f"/locks/release/{quote(lock_key, safe='')}")


def compile_lock_key(repo: str, commit: str) -> str:
    """The key under which all workers, the public ones too, lock the compilation of a commit."""
    return f"compile:{repo}:{commit}"


def _checked(checksum: str) -> str:
    if not _CHECKSUM.fullmatch(checksum):
        raise Permanent("a module's checksum is 64 hex digits")
    return checksum
