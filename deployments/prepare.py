"""What `millrace worker` does before it serves: refuse early, sweep, and take up what was left."""

from __future__ import annotations

from prefect.settings import PREFECT_API_URL
from rich.console import Console

from flows.networks import networks
from flows.reconcile import reconcile
from millrace.errors import Declined, MillraceError, Permanent
from millrace.redaction import redact
from millrace.settings import Settings
from millrace.text import printable
from stages.execute.sandbox import open_sandbox
from stages.execute.sandbox.selftest import ensure_working


def ensure_server_is_known() -> None:
    """Return if Prefect knows which server to use. Permanent otherwise: it would start one that nobody ends."""
    if not PREFECT_API_URL.value():
        raise Permanent(
            "no Prefect server is configured",
            hint="export PREFECT_API_URL=http://127.0.0.1:4200/api, or let `millrace up` start everything",
        )


async def prepare_worker(settings: Settings, console: Console) -> None:
    """Test the sandbox, end what a killed worker's jobs left, show each network's account, and reconcile.

    A worker without a working sandbox still starts: its jobs are declined with the reason, never run bare.
    """
    try:
        sandbox = open_sandbox(settings)
        sandbox.sweep()
        ensure_working(sandbox, settings.data_dir / "state")
        console.print(f"sandbox: {sandbox.name} works", markup=False)
    except Declined as error:
        console.print(f"sandbox: {redact(str(error))}; jobs will be declined", markup=False)
    for line in await accounts(settings):
        console.print(printable(line), markup=False)
    state = await reconcile(return_state=True)
    console.print(f"reconcile: {state.name}: {printable(redact(state.message or ''))}", markup=False)


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
