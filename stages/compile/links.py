"""A repository's symbolic links, taken out of its archive."""

from __future__ import annotations

import io
import tarfile


def without_links(archive: bytes) -> tuple[bytes, bytes]:
    """The tar without its symbolic links, and these as target, NUL, name, NUL.

    GNU tar sets the mode of every link that it makes, by a call (fchmodat2) that Docker cannot be told about where its
    libseccomp is older than 2.5.5: the filter refuses it, and tar fails. `ln` makes them without.
    """
    kept, links = io.BytesIO(), bytearray()
    with (
        tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar,
        tarfile.open(fileobj=kept, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as rest,
    ):
        for member in tar:
            if member.issym():
                links += b"".join(
                    part.encode("utf-8", "surrogateescape") + b"\0" for part in (member.linkname, member.name)
                )
            else:
                rest.addfile(member, tar.extractfile(member) if member.isreg() else None)
    return (kept.getvalue(), bytes(links)) if links else (archive, b"")
