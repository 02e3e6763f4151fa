"""`millrace doctor`: what this machine can do, what is weaker than it could be, and how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from rich.console import Console
from rich.text import Text

from deployments.database import Sqlite, choose
from flows.networks import VALIDATOR, Served, networks
from millrace.errors import MillraceError
from millrace.finding import Finding, Level
from millrace.redaction import redact
from millrace.settings import Settings, no_setting, unknown_variables
from millrace.text import printable
from protocols.ipfs.content import open_content
from protocols.ipfs.gateway import Gateway
from protocols.validator.link import validator_label
from stages.compile.diagnosis import diagnose_builder
from stages.discover.validator_opening import address_of, link_of
from stages.execute.matmul.cupy_device import cards
from stages.execute.matmul.stage import ensure_solvable
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.wasm.diagnosis import diagnose_wasm
from stages.submit.outbox_diagnosis import diagnose_outbox

_STYLES = {"ok": "green", "weak": "yellow", "missing": "red"}


async def examine(settings: Settings, console: Console) -> int:
    """Print every finding; returns 1 if something is missing without which no job can be done, else 0."""
    findings = [
        *_variables(),
        *await asyncio.to_thread(diagnose, settings),
        await asyncio.to_thread(_database, settings),
        *await asyncio.to_thread(diagnose_outbox, settings),
        *await _content(settings),
        *await _networks(settings),
        *await _validator(settings),
        *await asyncio.to_thread(_device, settings),
        *await _modules(settings),
    ]
    width = max(len(level) for level in _STYLES)
    for finding in findings:
        level = Text(f"{finding.level:<{width}}  ", _STYLES[finding.level])
        console.print(level + Text(printable(redact(finding.text))))
        if finding.remedy:
            console.print(Text(f"{'':<{width}}    {printable(redact(finding.remedy))}", "dim"))
    return int(any(finding.level == "missing" for finding in findings))


def _variables() -> list[Finding]:
    return [
        Finding("weak", f"settings: {no_setting(name)}", "correct or remove it; docs/settings.md has every name")
        for name in unknown_variables()
    ]


def _database(settings: Settings) -> Finding:
    try:
        choice = choose(settings.data_dir)
    except MillraceError as error:
        return _failed("database", error, "missing")
    if isinstance(choice, Sqlite):
        return Finding("weak", f"database: {choice.told}", choice.remedy)
    return Finding("ok", f"database: {choice.told}")


async def _content(settings: Settings) -> list[Finding]:
    try:
        content = open_content(settings.ipfs, settings.data_dir)
    except MillraceError as error:
        return [_failed("content", error, "missing")]
    async with content:
        findings = list(await asyncio.gather(*[_place(place.name, place.check()) for place in content.places]))
    if not any(isinstance(place, Gateway) for place in content.places) and not content.sinks:
        remedy = "set MILLRACE_IPFS__GATEWAYS or MILLRACE_IPFS__DAEMON"
        findings.append(Finding("missing", "content: programs can be read from nowhere but this machine", remedy))
    if not content.sinks:
        remedy = "set PINATA_JWT, or MILLRACE_IPFS__DAEMON to a kubo daemon's RPC address"
        findings.append(Finding("weak", "content: results stay on this machine, where no owner can read them", remedy))
    return findings


async def _place(name: str, check: Awaitable[str]) -> Finding:
    try:
        told = await check
    except MillraceError as error:
        return _failed("content", error, "weak")
    return Finding("ok", f"content: {name} answers{f', {told}' if told else ''}")


async def _networks(settings: Settings) -> list[Finding]:
    """A finding for each network; a network left out is fine, as long as there is another."""
    findings = []
    any_served = any(source.configured(settings) for source in (*networks().values(), VALIDATOR))
    for name, served in networks().items():
        if served.configured(settings):
            findings.append(await _network(name, served, settings))
        else:
            level: Level = "ok" if any_served else "missing"
            findings.append(Finding(level, f"{name}: not served", f"{served.remedy} to serve it"))
    return findings


async def _network(name: str, served: Served, settings: Settings) -> Finding:
    try:
        async with served.open(settings) as network:
            await network.affordable()
            text = f"{name}: {network.address}, balance {await network.balance()}, at {await network.head()}"
            return Finding("ok", text)
    except MillraceError as error:
        return _failed(name, error, "missing")


async def _validator(settings: Settings) -> list[Finding]:
    """Whether the PoC validator lets us in; nothing if none is served. Over http only the settings are looked at."""
    if not VALIDATOR.configured(settings):
        return []
    try:
        async with link_of(settings)():
            return [Finding("ok", f"validator: {validator_label(settings.validator.url)}, {address_of(settings)}")]
    except MillraceError as error:
        return [_failed("validator", error, "missing")]


def _device(settings: Settings) -> list[Finding]:
    """What challenges would be solved on; nothing if neither ComputeChain nor a validator is served."""
    compute = settings.computechain
    served = networks().get("computechain")
    if not VALIDATOR.configured(settings) and (served is None or not served.configured(settings)):
        return []
    try:
        ensure_solvable(compute.size, compute.algorithm, compute.device)
    except MillraceError as error:
        return [_failed("device", error, "missing")]
    if compute.device == "cpu":
        return [Finding("ok", f"device: challenges of n = {compute.size} are solved on the CPU, as set")]
    try:
        count = cards()
    except MillraceError as error:
        level: Level = "weak" if compute.device == "auto" else "missing"
        return [_failed(f"device: {compute.device}", error, level)]
    number = compute.device.removeprefix("cuda:")
    if number.isdigit() and int(number) >= count:
        remedy = "`nvidia-smi` counts them from 0, and `make setup GPU=1` installs what uses them"
        return [Finding("missing", f"device: {compute.device} is not among the {count} that can be used", remedy)]
    return [Finding("ok", f"device: {compute.device}, of {count} that can be used")]


async def _modules(settings: Settings) -> list[Finding]:
    """What modules would be compiled with and run in; nothing if OffchainVM is not served."""
    served = networks().get("offchainvm")
    if served is None or not served.configured(settings):
        return []
    builder = await diagnose_builder(settings) or [
        Finding(
            "weak",
            "compile: no builder image is named, so that only requests which name a module can be served",
            "deployments/images/wasm-builder makes one; set MILLRACE_COMPILE__IMAGE to its id",
        )
    ]
    return [*await asyncio.to_thread(diagnose_wasm, settings), *builder]


def _failed(what: str, error: MillraceError, level: Level) -> Finding:
    remedy = error.hint or "check its address in the settings, and that this machine can reach it"
    return Finding(level, f"{what}: {error.message}", remedy)
