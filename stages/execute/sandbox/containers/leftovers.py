"""Removing the containers of workers that died: Docker's containers do not die with whoever started them.

A worker inside a container has a pid that means nothing outside. So every container also says until when it may be
there, which holds for whoever sweeps.
"""

from __future__ import annotations

import logging
from typing import Any

from docker import APIClient
from docker.errors import APIError

from stages.execute.sandbox.containers.options import BOOT, OWNER, UNTIL, USER, realm, since_boot
from stages.execute.sandbox.owner import is_orphan

_logger = logging.getLogger(__name__)


def sweep_containers(api: APIClient) -> list[str]:
    """Kill and remove the containers whose worker is gone or whose time is over; returns their names.

    DockerException or OSError.
    """
    here, now, swept = realm(), since_boot(), []
    for container in api.containers(all=True, filters={"label": OWNER}):
        if is_abandoned(container, here, now):
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except APIError as error:
                # Another worker may sweep at the same moment; what cannot be removed must not stop this one either.
                _logger.warning("a dead worker's container stays behind: %s", error)
            else:
                swept.append(container["Labels"][OWNER])
    return sorted(swept)


def is_abandoned(container: dict[str, Any], here: dict[str, str], now: float) -> bool:
    """Whether nobody can be waiting for it at `now`, in seconds since the boot.

    Another user's processes may be hidden from us, and pids mean something on their own boot only: of an earlier one
    nothing can be running.
    """
    labels = container["Labels"]
    if labels.get(USER) != here[USER]:
        return False
    if labels.get(BOOT) != here[BOOT]:
        return bool(container["State"] != "running")
    return is_orphan(labels[OWNER]) or _is_overdue(labels, now)


def _is_overdue(labels: dict[str, str], now: float) -> bool:
    """Whether its worker would have ended it long ago; never for containers of versions that did not say when."""
    until = labels.get(UNTIL, "")
    return until.isdecimal() and now > int(until)
