"""The Redis server that the machines of a fleet share: how it is reached, and its errors in our words."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from millrace.errors import MillraceError, Permanent, Transient
from millrace.redaction import redact, register_secret

_ANSWER_SECONDS = 3.0
"""Patience for one answer of the server."""


def connect(url: str) -> redis.Redis:
    """A client of the Redis server at `url`, not connected yet; its password is never told from now on.

    Raises Permanent if the address makes no sense.
    """
    try:
        password = urlsplit(url).password
        if password is not None:
            register_secret(unquote(password))
            register_secret(password)
        # It tries once: who asks decides whether to ask again, and a lock has to be known lost before it expires.
        return redis.Redis.from_url(
            url,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
        )
    except ValueError:
        # The error would quote the address, password included.
        raise Permanent("MILLRACE_FLEET_URL is no address of a Redis server", hint="redis://host:6379/0") from None


def told(error: redis.RedisError) -> MillraceError:
    """An error of the fleet's Redis in our own words: Permanent if it will not have us, else Transient."""
    if isinstance(error, redis.AuthenticationError | NoPermissionError):
        return Permanent(redact(f"the fleet's Redis will not have us: {error}"), hint="see MILLRACE_FLEET_URL")
    return Transient(
        redact(f"no answer from the fleet's Redis: {error}"), hint="is the Redis of MILLRACE_FLEET_URL running?"
    )
