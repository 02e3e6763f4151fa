"""Keep secrets out of everything a person or a log store reads.

`SecretStr` hides a secret as long as nobody unwraps it; this module catches the ones that were unwrapped
and then travelled inside an error text, an URL or a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from millrace.errors import MillraceError

MASK = "**********"
_SHORTEST_SECRET = 6
"""Anything shorter would mask ordinary words."""

_secrets: set[str] = set()


def register_secret(secret: str) -> None:
    """Mask `secret` from now on, in every log record and wherever `redact` is called."""
    if len(secret) >= _SHORTEST_SECRET:
        _secrets.add(secret)


def register_secrets_of(model: BaseModel) -> None:
    """Mask every `SecretStr` that `model` holds, at any depth."""
    for secret in _secrets_in(model):
        register_secret(secret)


def _secrets_in(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for _, field in value:
            yield from _secrets_in(field)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets_in(item)


def redact(text: str) -> str:
    """`text` with every registered secret masked; the longest first, so that none shows through another."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def redact_error(error: MillraceError) -> None:
    """Mask secrets in the error itself: its text travels on as a state's message, past every log."""
    error.message, error.hint = redact(error.message), redact(error.hint)
    error.args = (error.message,)
