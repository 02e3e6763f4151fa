"""Getting the container sandbox that the settings ask for."""

from __future__ import annotations

import os

from docker.errors import DockerException

from millrace.settings import Settings
from stages.execute.sandbox.containers.daemon import Daemon, declined, find_daemon
from stages.execute.sandbox.containers.image import Image, own_image, pinned_image
from stages.execute.sandbox.containers.sandbox import DockerSandbox
from stages.execute.sandbox.interpreter import examine_interpreter, find_interpreter
from stages.execute.sandbox.slots import LOCK_FOLDER, Slots


def open_docker(settings: Settings) -> DockerSandbox:
    """The container sandbox of this machine, not yet tried out; its image is made if it is not there yet.

    Raises Declined(no_sandbox) with what helps.
    """
    wanted = settings.sandbox
    daemon = find_daemon(wanted)
    # Whoever may use the daemon is root in all but name; only the locks of the slots need a folder of our own.
    folder = LOCK_FOLDER if os.geteuid() == 0 else settings.data_dir.absolute() / "state" / "slots"
    return DockerSandbox(daemon, find_image(daemon, settings), Slots(wanted.first_uid, wanted.slots, folder))


def find_image(daemon: Daemon, settings: Settings) -> Image:
    """The image that the settings name, else our own, made if need be. Raises Declined(no_sandbox)."""
    wanted = settings.sandbox
    try:
        with daemon.connect() as api:
            if wanted.image:
                return pinned_image(api, wanted.image, wanted.python)
            python = find_interpreter(wanted.python)
            if python is None:
                raise declined("there is no Python to make an image of", "sudo apt install python3")
            return own_image(api, examine_interpreter(python))
    except (DockerException, OSError) as error:
        raise declined(f"there is no image to run jobs in: {error}", "`millrace docker image` makes one") from error
