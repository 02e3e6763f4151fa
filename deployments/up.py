"""`millrace up`: everything on one machine, with the operator's own settings, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal

from prefect.client.orchestration import PrefectClient
from rich.console import Console

from deployments.prepare import accounts
from deployments.processes import Processes
from deployments.stack import (
    base_environment,
    deploy,
    first_look,
    pinned_settings,
    prefect_environment,
    start_database_and_server,
    start_worker,
)
from flows.networks import VALIDATOR, networks
from millrace.settings import Settings


async def run_up(settings: Settings, *, port: int, limit: int) -> None:
    """Start server, deployments and workers; end them all on SIGINT or SIGTERM, or when one of them ends."""
    console = Console(highlight=False, soft_wrap=True)
    data_dir = settings.data_dir.absolute()
    environment = {**base_environment(), **pinned_settings(settings), **prefect_environment(data_dir, port)}
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    for line in await accounts(settings):
        console.print(line, markup=False)
    with Processes(data_dir / "logs") as processes:
        console.print(await start_database_and_server(processes, environment, port, data_dir), markup=False)
        await deploy(environment, limit)
        async with PrefectClient(environment["PREFECT_API_URL"]) as client:
            await first_look(client)
        for pool in sorted(
            {source.pool for source in (*networks().values(), VALIDATOR) if source.configured(settings)} | {"cpu"}
        ):
            start_worker(processes, environment, limit, pool)
        console.print(
            f"Prefect UI: http://127.0.0.1:{port}\nlogs: {data_dir / 'logs'}\n"
            f"for prefect commands: export PREFECT_API_URL={environment['PREFECT_API_URL']}\nCtrl-C ends it.",
            markup=False,
        )
        while not ended.is_set():
            processes.check()
            try:
                await asyncio.wait_for(ended.wait(), timeout=1)
            except TimeoutError:
                continue
