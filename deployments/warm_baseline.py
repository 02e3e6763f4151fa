"""Prefect's settings as the fork server has read them, in the form in which a worker hands them to a flow run.

Imported by the fork server and computed there once: it takes a tenth of a second, which a flow run need not.
"""

from __future__ import annotations

from prefect.settings import get_current_settings

from deployments.database import URL_NAMES

VARIABLES = {
    name: value
    for name, value in get_current_settings().to_environment_variables(exclude_unset=True).items()
    if name not in URL_NAMES  # no flow run gets those
}
