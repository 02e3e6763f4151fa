"""The contract's events in the logs of its receipts: one line each, `EVENT_JSON:` and a NEP-297 document."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from millrace.text import printable
from protocols.near import contract_early, contract_head
from protocols.near.contract import ExecutionRequest, compact, data_id_hex
from protocols.near.rpc_errors import shown

_MARK = "EVENT_JSON:"
_REQUESTED = "execution_requested"
STANDARDS = frozenset({contract_early.EVENT_STANDARD, contract_head.EVENT_STANDARD})
"""Names of the events' standard; the contract's owner can change it, and then settings must name it too."""


@dataclass(frozen=True)
class FoundRequests:
    """What logs hold: requests, and, in words, the entries that cannot be read as one."""

    requests: tuple[ExecutionRequest, ...] = ()
    unreadable: tuple[str, ...] = ()


def requests_in(logs: Iterable[str], standards: Iterable[str] = STANDARDS) -> FoundRequests:
    """Every request that the logs of one receipt announce, in order: of each event, every entry.

    An entry that cannot be read does not hide the others. What is no event, or another one, is left out silently.
    """
    known = frozenset(standards)
    requests: list[ExecutionRequest] = []
    unreadable: list[str] = []
    for line in logs:
        for entry in _entries(line, known):
            try:
                requests.append(_request(entry))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                unreadable.append(f"{_reason(error)}: {shown(entry)}")
    return FoundRequests(tuple(requests), tuple(unreadable))


def _entries(line: str, standards: frozenset[str]) -> list[Any]:
    if not line.startswith(_MARK):
        return []
    try:
        event = json.loads(line[len(_MARK) :])
    except (ValueError, RecursionError):
        return []
    if not isinstance(event, dict) or event.get("event") != _REQUESTED:
        return []
    standard, entries = event.get("standard"), event.get("data")
    if not isinstance(standard, str) or standard not in standards:
        return []
    return entries if isinstance(entries, list) else [entries]


def _request(entry: Any) -> ExecutionRequest:
    """The request in one entry, whose `request_data` is JSON in a string."""
    fields = json.loads(entry["request_data"])
    if not isinstance(fields, dict):
        raise ValueError("request_data is no object")
    compact(fields)  # raises for half a surrogate pair, which could be read and never persisted
    return ExecutionRequest.model_validate({**fields, "data_id": data_id_hex(entry["data_id"])})


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {printable(str(error), 100)}"
