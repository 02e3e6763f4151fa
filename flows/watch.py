"""Watch one network: a flow run for every job that its chain wants done, never more than the work pool can hold."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed

from flows.dispatch import Dispatcher
from flows.life import job_life, named_after
from flows.networks import network as served
from millrace.errors import Declined, MillraceError
from millrace.redaction import redact
from millrace.settings import load_settings


@flow(name="watch", flow_run_name=named_after("network", "watch-"))
async def watch(network: str = "cloudmesh", run_seconds: float = 50.0) -> State[Any]:
    """Look at the chain every poll interval for about `run_seconds`; start what is pending and fits.

    Looping inside one run keeps the history readable and the latency low: a scheduled run takes seconds to start.
    Ends with a state name that says what was found; `Failed` if not one look succeeded. A network that the settings
    do not name is not looked at.
    """
    if not served(network).configured(load_settings()):
        return Completed(name="Not configured", message=f"to serve {network}: {served(network).remedy}")
    async with job_life(network) as bench, get_client() as client:
        chain = await bench.tool("network")
        dispatcher = await Dispatcher.create(client, served(network), bench.settings)
        deadline = time.monotonic() + run_seconds
        started, looks, trouble = 0, 0, ""
        while True:
            try:
                await chain.affordable()
                pending = await chain.pending()
                started += await dispatcher.start(pending, chain.begun)
                looks += 1
            except Declined as error:
                return Completed(name="Paused", message=redact(str(error)))
            except MillraceError as error:
                trouble = redact(str(error))
                dispatcher.logger.warning("could not look at %s: %s", network, trouble)
            if time.monotonic() + bench.settings.poll_interval_seconds > deadline:
                break
            await asyncio.sleep(bench.settings.poll_interval_seconds)
    if not looks:
        return Failed(message=f"could not look at {network}: {trouble}")
    if not started:
        return Completed(name="Nothing new", message=f"{looks} looks, nothing to start")
    return Completed(name=f"Started {started}", message=f"{looks} looks, {started} flow runs started")
