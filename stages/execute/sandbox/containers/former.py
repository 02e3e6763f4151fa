"""Images that we made and that nobody opens any more: each update of the system's Python leaves one behind.

Docker does not say when an image was last used, but when it was last given a name. So whoever opens one of ours gives
it its name again, once a day.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound

REPOSITORY = "millrace-python"
KEPT = timedelta(days=30)

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_logger = logging.getLogger(__name__)


def note_use(api: APIClient, image: str, tag: str, now: datetime | None = None) -> None:
    """Note that the image with that id and that tag of ours is in use. DockerException or OSError."""
    if (now or datetime.now(UTC)) - _last_named(api, image) > _DAY:
        api.tag(image, REPOSITORY, tag=tag, force=True)


def remove_former(api: APIClient, images: Sequence[Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """Remove those of `images`, as Docker lists ours, that nobody opened in KEPT; returns their ids.

    Docker keeps what a container is made of, and we what somebody gave a name of his own. DockerException or OSError.
    """
    removed = []
    for image in images:
        try:
            if (names := _own_names(image)) and _is_former(api, image["Id"], now or datetime.now(UTC)):
                for name in names:
                    api.remove_image(name)
                removed.append(image["Id"])
        except NotFound:
            continue  # another worker was first
        except APIError as error:
            _logger.warning("a former image of ours stays behind: %s", error)
    return removed


def _is_former(api: APIClient, image: str, now: datetime) -> bool:
    named = _last_named(api, image)
    return named > _EPOCH and now - named > KEPT


def _own_names(image: Mapping[str, Any]) -> list[str]:
    """The names that we gave it, or its id if it has no name at all."""
    names = [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    return [name for name in names if name.startswith(f"{REPOSITORY}:")] if names else [image["Id"]]


def _last_named(api: APIClient, image: str) -> datetime:
    """When the image last got a name; in the year 1 if Docker does not know."""
    about: dict[str, Any] = api.inspect_image(image)  # type: ignore[no-untyped-call]
    return datetime.fromisoformat((about.get("Metadata") or {}).get("LastTagTime") or "0001-01-01T00:00:00Z")
