"""What a kubo daemon's answers say, taken apart with nothing assumed: they may be any JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.text import printable
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import InvalidCID, PublishFailed, PublishRefused


def version_in(answer: Any) -> str:
    """The version that the answer to `version` names, safe to print. Raises PublishRefused."""
    return printable(str(_field(answer, "Version")), 40)


def imported_root(answer: Any) -> CID:
    """The CID that the answer to `dag/import` says is pinned.

    Raises PublishFailed if it was imported and not pinned, PublishRefused if there is no CID in the answer.
    """
    root = _field(answer, "Root")
    named = _parsed(_field(_field(root, "Cid"), "/"))
    if problem := root.get("PinErrorMsg"):  # what has a `Cid` is a mapping
        raise PublishFailed(f"the daemon took {named} but did not pin it: {printable(str(problem), 200)}")
    return named


def pinned(answer: Any) -> list[CID]:
    """The CIDs that the answer to `pin/ls` lists. Raises PublishRefused."""
    keys = _field(answer, "Keys")
    if not isinstance(keys, Mapping):
        raise _lacking("Keys")
    return [_parsed(key) for key in keys]


def _field(answer: Any, name: str) -> Any:
    # Not asked for its type: the client wraps whatever came, a list or a number too, as if it were a mapping.
    try:
        return answer[name]
    except (KeyError, TypeError):
        raise _lacking(name) from None


def _lacking(name: str) -> PublishRefused:
    return PublishRefused(f"the daemon's answer has no {name}", hint="is that address the RPC API of a kubo daemon?")


def _parsed(text: Any) -> CID:
    if not isinstance(text, str):
        raise PublishRefused("the daemon answered with something else where a CID belongs")
    try:
        return CID.parse(text)
    except InvalidCID as error:
        raise PublishRefused(f"the daemon answered with no CID: {error.message}") from None
