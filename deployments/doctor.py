"""`millrace doctor`: what this machine can do, what is weaker than it could be, and how to mend it."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.networks import networks
from millrace.errors import MillraceError
from millrace.redaction import redact
from millrace.settings import Settings
from stages.execute.sandbox.diagnosis import Finding, diagnose
from stages.submit.outbox import Outbox

_STYLES = {"ok": "green", "weak": "yellow", "missing": "red"}


async def examine(settings: Settings, console: Console) -> int:
    """Print every finding; returns 1 if something is missing without which jobs are declined, else 0."""
    findings = [
        *diagnose(settings),
        _database(),
        *_outbox(settings),
        *[await _network(name, settings) for name in networks()],
    ]
    table = Table("", "what", "what to do", show_lines=False)
    for finding in findings:
        level = str(finding.level)
        table.add_row(Text(level, _STYLES[level]), Text(finding.text), Text(finding.remedy))
    console.print(table)
    return int(any(str(finding.level) == "missing" for finding in findings))


def _database() -> Finding:
    if shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        text = "Prefect's database is SQLite unless PREFECT_SERVER_DATABASE_CONNECTION_URL names a PostgreSQL"
    else:
        text = "Prefect's database is SQLite: it works, several times slower than PostgreSQL"
    remedy = "for more than a few jobs a minute: PostgreSQL with the extension pg_trgm"
    return Finding("weak", text, remedy)


def _outbox(settings: Settings) -> list[Finding]:
    damaged = Outbox(settings.data_dir / "outbox").damaged()
    remedy = "restore it, or look up on the chain what this worker sent, before moving it away"
    return [Finding("weak", f"outbox: {path} cannot be read: its job's fate is not known", remedy) for path in damaged]


async def _network(name: str, settings: Settings) -> Finding:
    try:
        async with networks()[name].open(settings) as network:
            await network.affordable()
            text = f"{name}: {network.address}, balance {await network.balance()}, at {await network.head()}"
            return Finding("ok", text)
    except MillraceError as error:
        return Finding("weak", f"{name}: {redact(error.message)}", redact(error.hint))
