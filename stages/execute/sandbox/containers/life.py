"""The end of a container: that it comes, what it was, and that nothing stays."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from requests import RequestException

_DEATH_SECONDS = 10
_LATE_SECONDS = 1
_KILLED = 128 + signal.SIGKILL


@contextmanager
def removed(api: APIClient, name: str) -> Iterator[None]:
    """Remove the container and its volume at the end, whether it was made, runs, or has ended."""
    try:
        yield
    finally:
        with suppress(NotFound):
            api.remove_container(name, force=True, v=True)


def ended(api: APIClient, name: str, *, kill: bool) -> dict[str, Any]:
    """The state of the container once it has ended; empty if it does not end within seconds."""
    if kill:
        try:
            api.kill(name)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # it has ended by itself meanwhile
                raise
    try:
        api.wait(name, timeout=_DEATH_SECONDS)
    except RequestException:  # how the SDK tells that the time is up
        return {}
    state: dict[str, Any] = api.inspect_container(name)["State"]
    return state


def out_of_memory(api: APIClient, name: str, state: dict[str, Any], *, any_failure: bool = False) -> bool:
    """Whether the kernel killed something of the container for want of memory.

    On a busy machine Docker hears of it a moment after the container's end, and then says so in an event only. That is
    waited for if the container's first process was killed, or with `any_failure` if it failed in any way.
    """
    code = state.get("ExitCode")
    if state.get("OOMKilled") or not (code == _KILLED or (any_failure and code)):
        return bool(state.get("OOMKilled"))
    wanted = {"container": name, "event": "oom"}
    with closing(api.events(since=1, until=int(time.time()) + _LATE_SECONDS, filters=wanted, decode=True)) as events:
        return any(True for _ in events)
