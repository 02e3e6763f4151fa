"""Whether the demo can compile: an engine that answers, and a builder image that somebody made."""

from __future__ import annotations

from dataclasses import dataclass

from docker.errors import DockerException
from requests import RequestException

from millrace.errors import MillraceError
from millrace.settings import SandboxSettings, load_settings
from stages.compile.builder import image_digest
from stages.execute.sandbox.containers.daemon import find_daemon

_RECIPE = "millrace.recipe"
"""The label of the images that deployments/images/wasm-builder/from-debian makes."""


@dataclass(frozen=True)
class DemoBuilder:
    """The image to compile in, empty if there is none; then `why` says what is missing."""

    image: str
    why: str = ""


def find_builder() -> DemoBuilder:
    """The image that the operator's settings name, else the newest one that was made on this machine."""
    try:
        settings = load_settings()
        if settings.compile.image:
            return DemoBuilder(image_digest(settings))
        with find_daemon(SandboxSettings(backend="docker"), "leave it: a prebuilt module is used").connect() as api:
            found = api.images(filters={"label": _RECIPE})
    except MillraceError as error:
        return DemoBuilder("", error.message)
    except (OSError, DockerException, RequestException) as error:
        return DemoBuilder("", str(error))
    if not found:
        return DemoBuilder("", "no builder image was made here: deployments/images/wasm-builder/from-debian makes one")
    return DemoBuilder(str(max(found, key=lambda image: image["Created"])["Id"]))
