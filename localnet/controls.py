"""What tests may do to a stand-in, for tests that run in another process: `POST /_localnet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from millrace.errors import MillraceError

CONTROL_PATH = "/_localnet"


def control(actions: Mapping[str, Callable[..., Any]], document: Any) -> tuple[int, dict[str, Any]]:
    """Do `document["action"]` with its other members as parameters.

    Returns an HTTP status and the answer, whose `result` is the action's.
    """
    if not isinstance(document, dict):
        return 400, {"error": "send an object with an action"}
    parameters = {name: value for name, value in document.items() if name != "action"}
    action = actions.get(str(document.get("action")))
    if action is None:
        return 400, {"error": f"no such action; known: {', '.join(sorted(actions))}"}
    try:
        return 200, {"result": action(**parameters)}
    except (TypeError, ValueError, KeyError, MillraceError) as error:
        return 400, {"error": f"{document['action']}: {error}"}
