"""`millrace up`: everything on one machine, with the operator's own settings, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

from prefect.client.orchestration import PrefectClient
from rich.console import Console

from deployments.health_server import listen
from deployments.prepare import accounts
from deployments.processes import Processes
from deployments.stack import (
    base_environment,
    deploy,
    first_look,
    pinned_settings,
    prefect_environment,
    start_database_and_server,
    start_health,
    start_worker,
)
from flows.networks import needed_pools
from millrace.settings import Settings
from stages.drain import DrainMark

_SILENT_SECONDS = 1.5
"""Workers without work end within that."""


async def run_up(settings: Settings, *, port: int, limit: int, grace_seconds: float = 60.0) -> None:
    """Start server, deployments and workers; end them all on SIGINT or SIGTERM, or when one of them ends.

    Told to end, the workers take nothing new, and what runs has `grace_seconds` to end, unless the signal comes again.
    """
    console = Console(highlight=False, soft_wrap=True)
    data_dir = settings.data_dir.absolute()
    environment = {**base_environment(), **pinned_settings(settings), **prefect_environment(data_dir, port)}
    told = _Told()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.again)
    if settings.health.port:
        listen(settings.health).close()  # a port that is taken is better known now
    if DrainMark(data_dir).end_at_start():
        console.print("the draining has ended: jobs are taken again", markup=False)
    for line in await accounts(settings):
        console.print(line, markup=False)
    with Processes(data_dir / "logs") as processes:
        line = await start_database_and_server(
            processes, environment, port, data_dir, history_days=settings.history_days
        )
        console.print(line, markup=False)
        await deploy(environment, limit)
        async with PrefectClient(environment["PREFECT_API_URL"]) as client:
            await first_look(client)
        pools = needed_pools(settings)
        workers = [start_worker(processes, environment, limit, pool) for pool in pools]
        if settings.health.port:
            start_health(processes, environment)
            console.print(
                f"state: http://{settings.health.host}:{settings.health.port}/health and /metrics", markup=False
            )
        console.print(
            f"Prefect UI: http://127.0.0.1:{port}\nlogs: {data_dir / 'logs'}\n"
            f"for prefect commands: export PREFECT_API_URL={environment['PREFECT_API_URL']}\nCtrl-C ends it.",
            markup=False,
        )
        while not told.once.is_set():
            processes.check()
            with suppress(TimeoutError):
                await asyncio.wait_for(told.once.wait(), timeout=1)
        await _let_end(processes, workers, grace_seconds, told, console)


class _Told:
    """How often we were told to end."""

    def __init__(self) -> None:
        self.once, self.twice = asyncio.Event(), asyncio.Event()

    def again(self) -> None:
        """Note one more signal."""
        (self.twice if self.once.is_set() else self.once).set()


async def _let_end(
    processes: Processes, workers: list[str], grace_seconds: float, told: _Told, console: Console
) -> None:
    """Let the workers finish what runs, for so long at most."""
    for name in workers:
        processes.ask_to_end(name)
    deadline = time.monotonic() + grace_seconds
    said = False
    while not told.twice.is_set() and time.monotonic() < deadline:
        if all(processes.has_ended(name) for name in workers):
            return
        if not said and time.monotonic() > deadline - grace_seconds + _SILENT_SECONDS:
            console.print(f"what runs has {grace_seconds:g} s to end; Ctrl-C ends it now", markup=False)
            said = True
        with suppress(TimeoutError):
            await asyncio.wait_for(told.twice.wait(), timeout=0.2)
