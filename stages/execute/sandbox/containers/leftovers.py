"""Removing the containers of workers that died: Docker's containers do not die with whoever started them."""

from __future__ import annotations

import logging
from typing import Any

from docker import APIClient
from docker.errors import APIError

from stages.execute.sandbox.containers.options import BOOT, OWNER, USER, realm
from stages.execute.sandbox.owner import is_orphan

_logger = logging.getLogger(__name__)


def sweep_containers(api: APIClient) -> list[str]:
    """Kill and remove the containers whose worker is gone; returns their names. DockerException or OSError."""
    here, swept = realm(), []
    for container in api.containers(all=True, filters={"label": OWNER}):
        if is_abandoned(container, here):
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except APIError as error:
                # Another worker may sweep at the same moment; what cannot be removed must not stop this one either.
                _logger.warning("a dead worker's container stays behind: %s", error)
            else:
                swept.append(container["Labels"][OWNER])
    return sorted(swept)


def is_abandoned(container: dict[str, Any], here: dict[str, str]) -> bool:
    """Whether nobody can be waiting for it.

    Another user's processes may be hidden from us, and pids mean something on their own boot only: of an earlier one
    nothing can be running.
    """
    labels = container["Labels"]
    if labels.get(USER) != here[USER]:
        return False
    return is_orphan(labels[OWNER]) if labels.get(BOOT) == here[BOOT] else bool(container["State"] != "running")
