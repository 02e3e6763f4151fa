"""Watch one network: a flow run for every job that its chain wants done, never more than the work pool can hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed

from flows.dispatch import Dispatcher
from flows.draining import drained
from flows.endless import first_of, stoppable, told_to_stop
from flows.life import job_life, named_after
from flows.networks import network as served
from flows.workbench import Workbench
from millrace.errors import Declined, MillraceError
from millrace.network import Network
from millrace.redaction import redact
from millrace.settings import Settings, load_settings
from stages.drain import DrainMark
from stages.progress import Progress


@flow(name="watch", flow_run_name=named_after("network", "watch-"))
async def watch(network: str = "cloudmesh", run_seconds: float = 50.0) -> State[Any]:
    """Look at the chain every poll interval, or when it hints at news, for about `run_seconds`; start what fits.

    Looping inside one run keeps the history readable and the latency low: a scheduled run takes seconds to start.
    Ends with a state name that says what was found, also when it is told to stop; `Failed` if not one look succeeded.
    A network that the settings do not name is not looked at, and none while the machine drains.
    """
    settings = load_settings()
    if not served(network).configured(settings):
        return Completed(name="Not configured", message=f"to serve {network}: {served(network).remedy}")
    if words := served(network).handed_out(settings):
        return Completed(name="Handed out", message=words)
    if DrainMark(settings.data_dir).is_set():
        return drained()
    async with stoppable() as told, job_life(network) as bench, get_client() as client:
        chain = await _opened(network, bench)
        dispatcher = await Dispatcher.create(client, served(network), bench.settings)
        watching = _Watching(network, chain, dispatcher, bench.settings)
        await first_of(watching.look_on(run_seconds), told_to_stop(told))
        return watching.found()


async def _opened(network: str, bench: Workbench) -> Network[Any]:
    try:
        chain: Network[Any] = await bench.tool("network")
    except MillraceError as error:
        Progress(bench.settings.data_dir).could_not_look(network, now=time.time(), trouble=redact(str(error)))
        raise
    return chain


@dataclass
class _Watching:
    """The looks of one run, and what they came to."""

    name: str
    chain: Network[Any]
    dispatcher: Dispatcher
    settings: Settings
    started: int = 0
    looks: int = 0
    trouble: str = ""
    ended: State[Any] | None = None
    """Why the looks ended early."""

    async def look_on(self, seconds: float) -> None:
        """Look again and again, for about so long, or until there is no use in it."""
        deadline = time.monotonic() + seconds
        while True:
            await self._look()
            if self.ended is not None or time.monotonic() + self.settings.poll_interval_seconds > deadline:
                return
            await self.chain.wait_for_news(self.settings.poll_interval_seconds)

    async def _look(self) -> None:
        if DrainMark(self.settings.data_dir).is_set():
            self.ended = drained()
            return
        progress = Progress(self.settings.data_dir)
        try:
            await self.chain.affordable()
            pending = await self.chain.pending()
            self.started += await self.dispatcher.start(pending, self.chain.begun)
            self.looks += 1
        except Declined as error:
            self.ended = Completed(name="Paused", message=redact(str(error)))
            progress.could_not_look(self.name, now=time.time(), trouble=redact(str(error)))
        except MillraceError as error:
            self.trouble = redact(str(error))
            self.dispatcher.logger.warning("could not look at %s: %s", self.name, self.trouble)
            progress.could_not_look(self.name, now=time.time(), trouble=self.trouble)
        else:
            given_up = len(self.dispatcher.given_up)
            progress.looked(
                self.name, now=time.time(), head=await self._head(), pending=len(pending), given_up=given_up
            )

    async def _head(self) -> int | None:
        """The chain's height, for whoever asks how far we are; the look succeeded without it."""
        try:
            return await self.chain.head()
        except MillraceError:
            return None

    def found(self) -> State[Any]:
        """The state that says it all."""
        if self.ended is not None:
            return self.ended
        if not self.looks and self.trouble:
            return Failed(message=f"could not look at {self.name}: {self.trouble}")
        if not self.started:
            return Completed(name="Nothing new", message=f"{self.looks} looks, nothing to start")
        return Completed(
            name=f"Started {self.started}", message=f"{self.looks} looks, {self.started} flow runs started"
        )
