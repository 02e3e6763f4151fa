"""The last thing that the fork server imports: what is done once here need not be done in each flow run.

Importing this completes Prefect's models, reads its settings, and sets everything aside that was made so far.
"""

from __future__ import annotations

import gc

from prefect.settings import get_current_settings
from pydantic import BaseModel

from deployments.database import URL_NAMES

VARIABLES = {
    name: value
    for name, value in get_current_settings().to_environment_variables(exclude_unset=True).items()
    if name not in URL_NAMES  # no flow run gets those
}
"""Prefect's settings as the fork server has read them, in the form in which a worker hands them to a flow run."""


def _complete(model: type[BaseModel]) -> None:
    """Finish `model` and its subclasses, should pydantic have put that off to their first use."""
    for kind in model.__subclasses__():
        if not kind.__pydantic_complete__:
            kind.model_rebuild(raise_errors=False)
        _complete(kind)


_complete(BaseModel)
# The collector of a forked process would go through all of it, and write to every page that both share.
gc.collect()
gc.freeze()
