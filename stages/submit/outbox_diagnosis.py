"""What is wrong with the outbox, and whether the fleet's forgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from millrace.errors import MillraceError
from millrace.finding import Finding
from millrace.redaction import redact
from millrace.settings import Settings
from stages.locks.server import connect, told
from stages.submit.outbox_opening import open_outbox

_MEANING = "a submission that was signed and sent could be forgotten, and its job be signed for twice"


def diagnose_outbox(settings: Settings) -> list[Finding]:
    """Records that cannot be read, and why the fleet's Redis may lose some; empty if all is well on one machine."""
    try:
        with open_outbox(settings) as outbox:
            damaged = outbox.damaged()
        faults = _of_server(settings.fleet_url.get_secret_value()) if settings.fleet_url is not None else []
    except MillraceError as error:
        return [Finding("missing", redact(f"outbox: {error.message}"), error.hint or "")]
    remedy = "restore it, or look up on the chain what this worker sent, before moving it away"
    found = [
        Finding("weak", f"outbox: {place} cannot be read: its job's fate is not known", remedy) for place in damaged
    ]
    if settings.fleet_url is None:
        return found
    return [*found, *(faults or [Finding("ok", "outbox: the fleet's Redis keeps what is signed before it is sent")])]


def _of_server(url: str) -> list[Finding]:
    """Where the server at `url` may forget what it has acknowledged."""
    client: Any = connect(url)
    try:
        persistence: Mapping[str, Any] = client.info("persistence")
        memory: Mapping[str, Any] = client.info("memory")
        fsync = _appendfsync(client)
    except redis.RedisError as error:
        raise told(error) from None
    finally:
        client.close()
    found = []
    if not int(persistence.get("aof_enabled", 0)):
        found.append(_weak("appendonly is off: what it was told since its last snapshot is lost when it ends"))
    elif fsync != "always":
        text = f"appendfsync is {fsync or 'not to be told'}: the last second may be lost when its machine fails"
        found.append(_weak(text))
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if int(memory.get("maxmemory", 0)) and policy.startswith("allkeys"):
        text = f"maxmemory-policy is {policy}: it throws records away when it is full"
        found.append(Finding("weak", f"outbox: the fleet's Redis: {text}; {_MEANING}", "set it to noeviction"))
    return found


def _appendfsync(client: redis.Redis) -> str:
    """The setting; empty where the server keeps its settings to itself, as rented ones do."""
    try:
        return str(client.config_get("appendfsync").get("appendfsync", ""))
    except redis.ConnectionError:
        raise
    except redis.RedisError:
        return ""


def _weak(text: str) -> Finding:
    remedy = "set appendonly yes and appendfsync always in its redis.conf"
    return Finding("weak", f"outbox: the fleet's Redis: {text}; {_MEANING}", remedy)
