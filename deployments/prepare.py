"""What `millrace worker` does before it serves: refuse early, sweep, and take up what was left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
from prefect import tags
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_API_URL
from rich.console import Console

from deployments.enlisted import Checked
from flows.networks import networks
from flows.reconcile import TAG_OF_ALL, reconcile
from millrace.errors import Declined, MillraceError, Permanent, Transient
from millrace.finding import Finding
from millrace.redaction import redact
from millrace.settings import Settings
from millrace.text import printable
from stages.compile.diagnosis import diagnose_builder
from stages.execute.sandbox import open_sandbox
from stages.execute.sandbox.selftest import ensure_working
from stages.execute.wasm.diagnosis import diagnose_wasm
from stages.submit.outbox_diagnosis import diagnose_outbox


def ensure_server_is_known() -> None:
    """Return if Prefect knows which server to use. Permanent otherwise: it would start one that nobody ends."""
    if not PREFECT_API_URL.value():
        raise Permanent(
            "no Prefect server is configured",
            hint="export PREFECT_API_URL=http://127.0.0.1:4200/api, or let `millrace up` start everything",
        )


async def prepare_worker(settings: Settings, console: Console, pool: str) -> tuple[Checked, ...]:
    """Test sandbox and outbox, end what a killed worker's jobs left, show each network's account, and reconcile.

    Of a worker whose `pool` is the one for compiling, the builder and the WASM runtime are tested as well. Returns what
    was found, for whoever asks how the worker does.

    A worker without a working sandbox still starts: its jobs are declined with the reason, never run bare.
    """
    try:
        sandbox = open_sandbox(settings)
        sandbox.sweep()
        ensure_working(sandbox, settings.data_dir / "state")
        found = [Finding("ok", f"sandbox: {sandbox.name} works")]
    except Declined as error:
        found = [Finding("missing", f"sandbox: {error}; jobs will be declined")]
    found += await asyncio.to_thread(diagnose_outbox, settings)
    offchainvm = networks()["offchainvm"]
    if pool == offchainvm.pool and offchainvm.configured(settings):
        found += await diagnose_builder(settings)
        found += await asyncio.to_thread(diagnose_wasm, settings)
    for finding in found:
        console.print(printable(redact(finding.text)), markup=False)
    for line in await accounts(settings):
        console.print(printable(line), markup=False)
    async with PrefectClient(str(PREFECT_API_URL.value())) as client:
        await until_server_answers(console, client.api_healthcheck)
    try:
        with tags(TAG_OF_ALL):  # so that, killed in the middle of it, it is found by the next one
            state = await reconcile(return_state=True)
        console.print(f"reconcile: {state.name}: {printable(redact(state.message or ''))}", markup=False)
    except (httpx.HTTPError, RuntimeError) as error:
        # The server went away again. A worker that ended now would do less than one that reconciles in a minute.
        told = printable(redact(str(error)), 300)
        console.print(f"reconcile: not now, its schedule does it: {type(error).__name__}: {told}", markup=False)
    return tuple(_checked(finding) for finding in found)


async def until_server_answers(
    console: Console,
    health: Callable[[], Awaitable[Exception | None]],
    *,
    patience_seconds: float = 300.0,
    poll_seconds: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return once the Prefect server answers: it may be started at the same time as we, or again.

    `health` returns what is wrong with it, if anything. Raises Transient if it does not answer within
    `patience_seconds`.
    """
    began, told = clock(), False
    while (trouble := await health()) is not None:
        if clock() - began >= patience_seconds:
            raise Transient(
                f"the Prefect server at {PREFECT_API_URL.value()} does not answer: {redact(str(trouble))}",
                hint="is it running, and is that its address?",
            )
        if not told:
            console.print(f"waiting for the Prefect server at {PREFECT_API_URL.value()}", markup=False)
            told = True
        await asyncio.sleep(poll_seconds)


def _checked(finding: Finding) -> Checked:
    name, _, text = printable(redact(finding.text), 500).partition(": ")
    return Checked(name=name, level=finding.level, text=text, at=time.time())


async def accounts(settings: Settings) -> list[str]:
    """A line for each network: the worker's address and balance, and how to fund it, or why it cannot be served."""
    lines = []
    for name, served in networks().items():
        if not served.configured(settings):
            lines.append(f"{name}: not served; to serve it, {served.remedy}")
            continue
        try:
            async with served.open(settings) as network:
                lines.append(f"{name}: {network.address}, balance {await network.balance()}, at {await network.head()}")
                await network.affordable()
        except MillraceError as error:
            lines.append(f"{name}: {redact(str(error))}")
    return lines
