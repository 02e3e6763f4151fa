"""A real builder for the build cases, and repositories as the fetch stage would hand them on, or worse."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping

from millrace.errors import Declined
from millrace.settings import CompileSettings, SandboxSettings, Settings
from stages.execute.sandbox.containers.daemon import find_daemon
from stages.fetch.git import FetchedSource

IMAGE = os.environ.get("TEST_BUILDER_IMAGE", "")


def unavailable(runtime: str = "runc") -> str:
    how = "DOCKER_HOST=$(.ci/docker start) TEST_BUILDER_IMAGE=$(deployments/images/wasm-builder/from-debian)"
    try:
        find_daemon(SandboxSettings(backend="docker", runtime=runtime))
    except Declined as error:
        return f"{error.message}: as root, export {how}"
    return "" if IMAGE else f"no builder image is named: as root, export {how}"


def settings(runtime: str = "runc") -> Settings:
    sandbox = SandboxSettings(first_uid=62_000)
    return Settings(_env_file=None, sandbox=sandbox, compile=CompileSettings(image=IMAGE, runtime=runtime))


def regular(name: str, text: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755
    return entry, text.encode()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def source(files: Mapping[str, str], *others: tuple[tarfile.TarInfo, bytes]) -> FetchedSource:
    """A repository with those files and whatever else is put into its archive, unchecked."""
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as tar:
        for entry, content in [*(regular(name, text) for name, text in files.items()), *others]:
            tar.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    archive = kept.getvalue()
    return FetchedSource(
        repo="https://github.com/mallory/tool",
        asked="main",
        commit="e" * 40,
        sha256=hashlib.sha256(archive).hexdigest(),
        files=len(files),
        tree_bytes=len(archive),
        received_bytes=0,
        archive_bytes=len(archive),
        archive=archive,
    )
