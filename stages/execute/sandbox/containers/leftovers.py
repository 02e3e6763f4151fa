"""Removing the containers of workers that died: Docker's containers do not die with whoever started them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from docker import APIClient
from docker.errors import NotFound

from stages.execute.sandbox.containers.options import BOOT, NAMESPACE, OWNER, realm
from stages.execute.sandbox.owner import is_orphan


def sweep_containers(api: APIClient) -> list[str]:
    """Kill and remove the containers whose worker is gone; returns their names. DockerException or OSError."""
    here, swept = realm(), []
    for container in api.containers(all=True, filters={"label": OWNER}):
        if is_abandoned(container, here):
            with suppress(NotFound):  # another worker may sweep at the same moment
                api.remove_container(container["Id"], force=True, v=True)
            swept.append(container["Labels"][OWNER])
    return sorted(swept)


def is_abandoned(container: dict[str, Any], here: dict[str, str]) -> bool:
    """Whether nobody can be waiting for it.

    The pid in its label means something on the same boot and in the same pid namespace only. Of another boot nothing
    can be running; what runs and was started from inside another container is left to the workers there.
    """
    labels = container["Labels"]
    if labels.get(BOOT) != here[BOOT]:
        return bool(container["State"] != "running")
    return labels.get(NAMESPACE) == here[NAMESPACE] and is_orphan(labels[OWNER])
