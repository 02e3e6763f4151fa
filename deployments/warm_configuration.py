"""What a work pool and its deployments may say of a flow run that is started warm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseJobConfiguration, BaseVariables
from pydantic import Field, PrivateAttr

from deployments.database import URL_NAMES
from deployments.plain_http import without_ours
from deployments.warm_start import FlowRunStart


class WarmVariables(BaseVariables):
    """What a deployment may set for its flow runs."""

    working_dir: Path | None = Field(
        default=None, title="Working Directory", description="Where flow runs start; a temporary folder when unset."
    )
    stream_output: bool = Field(default=True, description="Show what flow runs print in the worker's own output.")


class WarmConfiguration(BaseJobConfiguration):
    """One flow run's job: the template of the work pool with the deployment's variables put in."""

    working_dir: Path | None = None
    stream_output: bool = True
    _own_command: str = PrivateAttr(default="")

    def prepare_for_flow_run(self, flow_run: FlowRun, *about: Any, **more: Any) -> None:
        """Complete the environment: the worker's own, then Prefect's for this flow run, then the template's."""
        self._own_command = self.command or ""  # where there is none, Prefect fills in one of its own
        unset = {name for name, value in self.env.items() if value is None}
        super().prepare_for_flow_run(flow_run, *about, **more)
        # Prefect hands on what it read from the operator's .env, and a database's password is none of a job's business.
        unset.update(URL_NAMES)
        env = {name: value for name, value in {**os.environ, **self.env}.items() if name not in unset}
        self.env = without_ours(env)

    def start_of(self, flow_run: FlowRun, working_dir: Path, control: Mapping[str, str]) -> FlowRunStart:
        """How this flow run is started, with the variables through which its engine finds the worker."""
        return FlowRunStart(
            flow_run_id=str(flow_run.id),
            environment={name: value for name, value in {**self.env, **control}.items() if value is not None},
            working_dir=str(working_dir),
            command=self._own_command,
            stream_output=self.stream_output,
        )
