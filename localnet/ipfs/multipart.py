"""Read a multipart/form-data body (RFC 7578), as far as the stand-ins get one."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    name: str
    filename: str | None
    content: bytes


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """The parts of `body`. ValueError if it is not a complete form."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise ValueError("no multipart boundary")
    sections = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise ValueError("the form is cut short")
    return [_part(section) for section in sections[1:-1]]


def _part(section: bytes) -> Part:
    head, found, content = section.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not found:
        raise ValueError("a part without headers")
    headers = HeaderParser().parsestr(head.decode("utf-8", "replace"))
    name = headers.get_param("name", "", header="Content-Disposition")
    return Part(str(name), headers.get_filename(), content)
