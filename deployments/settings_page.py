"""`millrace settings`: every setting, its names, its default and what it means, from the settings' own fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from millrace.settings import Settings, public_names, variable

_HEAD = """# Settings

Each is read from the environment, or from a file `.env` in the working directory; the environment wins.
Several values in one setting are separated by commas or spaces. `millrace settings` prints this page.

| name | default | meaning |
|---|---|---|
"""


def settings_page() -> str:
    """The page as markdown."""
    return _HEAD + "".join(f"| {name} | {default} | {meaning} |\n" for name, default, meaning in _rows(Settings, ()))


def _rows(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(kind, (*path, name))
        else:
            names = [variable(*path, name), *sorted(alias.upper() for alias in public_names(*path, name))]
            yield "<br>".join(f"`{n}`" for n in names), _default(field), (field.description or "").replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value in (None, "", ()):
        return "unset"
    shown = " ".join(value) if isinstance(value, tuple) else str(value)
    return f"`{shown}`"
