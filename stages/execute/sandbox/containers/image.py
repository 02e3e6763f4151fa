"""What containers are made of: an image with the machine's Python and nothing else, or one that the operator pinned."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from docker import APIClient
from docker.errors import DockerException, ImageNotFound

from stages.execute.sandbox.containers.daemon import declined
from stages.execute.sandbox.containers.former import REPOSITORY, note_use, remove_former
from stages.execute.sandbox.interpreter import Interpreter

_VARIABLE = "MILLRACE_SANDBOX__IMAGE"
_RECIPE = 1
"""Raised whenever `write_layer` makes something else of the same files."""
_FILES, _VERSION, _EXECUTABLE = "millrace.files", "millrace.python", "millrace.executable"
_PINNED = re.compile(r"^(sha256:[0-9a-f]{64}|[^@\s]+@sha256:[0-9a-f]{64})$")
_ADDED = frozenset({".dockerenv", "dev", "etc", "job", "proc", "sbin", "sys", "tmp"})
"""What a container has at its root beside its image's own folders; /sbin and /etc hold what Docker mounts there."""


@dataclass(frozen=True)
class Image:
    """An image of the daemon's, by the id that nobody can move.

    `python` is the interpreter inside, `version` its version where known; `variables` are the names the image itself
    would set in the environment; `root` is what a container of it shows at its root, None if not known.
    """

    id: str
    python: str
    version: str = ""
    variables: tuple[str, ...] = ()
    root: frozenset[str] | None = None

    @property
    def short_id(self) -> str:
        """As people and `docker images` write it."""
        return self.id.removeprefix("sha256:")[:12]


def own_image(api: APIClient, interpreter: Interpreter) -> Image:
    """The image made of this machine's Python; made now if the daemon does not have it, which takes some seconds.

    It holds the same files that bubblewrap would show. Images of ours that nobody opened in a month are removed.
    DockerException or OSError if it cannot be made.
    """
    files = _fingerprint(interpreter)
    images = {image["Id"]: image for image in api.images(filters={"label": _FILES})}
    found = sorted(image_id for image_id, image in images.items() if image["Labels"][_FILES] == files)
    image_id = found[0] if found else _make(api, interpreter, files)
    if found:
        note_use(api, image_id, _tag(files))
    remove_former(api, [images[other] for other in images if other != image_id])
    tops = {destination.parts[1] for _, destination in interpreter.binds} | {
        PurePosixPath(link).parts[1] for _, link in interpreter.links
    }
    return Image(image_id, str(interpreter.executable), interpreter.version, root=frozenset(tops | _ADDED))


def pinned_image(api: APIClient, reference: str, python: Path | None, variable: str = _VARIABLE) -> Image:
    """The image that the operator named in `variable`, with the interpreter at `python` inside it.

    Raises Declined(no_sandbox) if the reference can move, is not here (nothing is ever pulled), or declares volumes,
    which would let jobs fill the machine's disk.
    """
    try:
        about: dict[str, Any] = api.inspect_image(reference)  # type: ignore[no-untyped-call]
    except ImageNotFound as error:
        raise declined(f"the image {reference} is not on this machine", f"docker pull {reference}") from error
    if not _PINNED.match(reference):
        pinned = next(iter(about.get("RepoDigests") or []), about["Id"])
        raise declined(
            f"{reference} is a tag, which can move to another image at any time",
            f"set {variable}={pinned}, which is what it means now",
        )
    config: dict[str, Any] = about.get("Config") or {}
    if volumes := config.get("Volumes"):
        raise declined(
            f"the image {reference} declares volumes, {', '.join(volumes)}: jobs could fill the disk through them",
            "use an image without" + (f", or leave {variable} unset" if variable == _VARIABLE else ""),
        )
    variables = tuple(entry.partition("=")[0] for entry in config.get("Env") or [])
    return Image(about["Id"], str(python or "/usr/bin/python3"), variables=variables)


def write_layer(file: IO[bytes], interpreter: Interpreter) -> None:
    """Write the tar archive of everything an own image holds: readable by all, owned and writable by root alone."""
    with tarfile.open(fileobj=file, mode="w") as archive:
        for folder in _folders(interpreter):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        hidden = {_inside(folder) for folder in interpreter.hidden}
        for source, destination in interpreter.binds:
            archive.add(source.resolve(), _inside(destination), filter=lambda entry: _kept(entry, hidden))
        for target, link in interpreter.links:
            entry = tarfile.TarInfo(_inside(link))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)


def _kept(entry: tarfile.TarInfo, hidden: Iterable[str]) -> tarfile.TarInfo | None:
    """The entry as the image has it; None for what lies in a hidden folder, which stays empty itself."""
    if any(entry.name.startswith(f"{folder}/") for folder in hidden):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o555 if entry.mode & 0o111 else 0o444
    return entry


def _folders(interpreter: Interpreter) -> list[str]:
    """Every folder above a file: Docker would make missing ones writable for all."""
    places = [destination for _, destination in interpreter.binds] + [Path(link) for _, link in interpreter.links]
    above = {_inside(folder) for place in places for folder in place.parents if folder != Path("/")}
    return sorted(above | {"job", "tmp"})


def _inside(place: Path | str) -> str:
    return str(place).lstrip("/")


def _fingerprint(interpreter: Interpreter) -> str:
    """Changes when a file of the interpreter is replaced, as an update of the system does."""
    stamps = [(str(d), (s := source.stat()).st_size, s.st_mtime_ns) for source, d in interpreter.binds]
    return hashlib.sha256(repr((_RECIPE, interpreter, stamps)).encode()).hexdigest()


def _tag(files: str) -> str:
    return files[:12]


def _make(api: APIClient, interpreter: Interpreter, files: str) -> str:
    labels = {_FILES: files, _VERSION: interpreter.version, _EXECUTABLE: str(interpreter.executable)}
    changes = [f"LABEL {name}={json.dumps(value)}" for name, value in labels.items()]
    with tempfile.TemporaryFile() as layer:
        write_layer(layer, interpreter)
        layer.seek(0, os.SEEK_SET)
        told = api.import_image(layer, repository=REPOSITORY, tag=_tag(files), changes=changes)
    last = json.loads(str(told).strip().splitlines()[-1])
    if "status" not in last:
        raise DockerException(f"the image was not made: {last}")
    return str(last["status"])
