"""What the stages of one flow run work with: opened when first needed, closed when the flow run ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from flows.locks.choice import open_locks
from flows.networks import network
from flows.wasm import wasm_runtime
from millrace.errors import MillraceError
from millrace.logs import install_logging
from millrace.receipt_log import ReceiptLog
from millrace.redaction import redact_error, register_secrets_of
from millrace.settings import Settings, load_settings
from protocols.ipfs.content import open_content
from stages.compile.tried import tried_builder
from stages.discover import coordinator_opening
from stages.discover.coordinator import desk_of
from stages.discover.validator import Inbox
from stages.discover.validator_opening import folder_of
from stages.execute.sandbox import open_sandbox
from stages.fetch.sources import Sources
from stages.progress import Progress
from stages.submit.follow import Pace
from stages.submit.outbox_opening import open_outbox
from stages.submit.validator import Answers


class Workbench:
    """The tools of one flow run, by the names that stage functions use for their keyword-only parameters."""

    def __init__(self, network_name: str, settings: Settings) -> None:
        self.settings = settings
        self.stage_seconds: dict[str, float] = {}
        """Wall time of each stage, with what Prefect adds to it."""
        self.worked_seconds = 0.0
        """Wall time inside the stages' own functions, all together."""
        self.reused: set[str] = set()
        """Stages whose result was there already, made by this job before or, if it is shared, by any."""
        self._network_name = network_name
        self._opened: dict[str, Any] = {}
        self._closing = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def tool(self, name: str) -> Any:
        """The tool called `name`, the same one for the whole flow run. KeyError if there is no such tool."""
        async with self._lock:
            if name not in self._opened:
                opened = _TOOLS[name](self)
                self._opened[name] = await opened if isinstance(opened, Awaitable) else opened
            return self._opened[name]

    async def open_network(self) -> Any:
        """Open this flow's network and keep it until the flow run ends."""
        return await self._closing.enter_async_context(network(self._network_name).open(self.settings))

    async def open_content(self) -> Any:
        """Open the content store and its back ends and keep them until the flow run ends."""
        content = open_content(self.settings.ipfs, self.settings.data_dir)
        return await self._closing.enter_async_context(content)

    async def open_coordinator(self) -> Any:
        """Open the coordinator's client, None if there is none, and keep it until the flow run ends."""
        return await self._closing.enter_async_context(coordinator_opening.open_coordinator(self.settings))

    async def open_fleet(self) -> Any:
        """Open what the fleet shares, None if there is no coordinator, and keep it until the flow run ends."""
        return await self._closing.enter_async_context(coordinator_opening.open_fleet(self.settings))

    async def open_locks(self) -> Any:
        """Open the locks for work that is shared and keep their server's connection until the flow run ends."""
        return await self._closing.enter_async_context(open_locks(self.settings))

    def open_outbox(self) -> Any:
        """Open this machine's outbox, or the fleet's, and keep its server's connection until the flow run ends."""
        return self._closing.enter_context(open_outbox(self.settings))

    async def close(self) -> None:
        """Close what was opened, last opened first."""
        await self._closing.aclose()


_TOOLS: dict[str, Callable[[Workbench], Any]] = {
    "settings": lambda bench: bench.settings,
    "network": Workbench.open_network,
    "content": Workbench.open_content,
    "locks": Workbench.open_locks,
    "sandbox": lambda bench: open_sandbox(bench.settings),
    "runtime": lambda bench: wasm_runtime(bench.settings),
    "sources": lambda bench: Sources(bench.settings.data_dir.absolute() / "sources"),
    # Opened by the stage itself, and only if there is something to compile: it takes some seconds.
    "open_builder": lambda bench: partial(tried_builder, bench.settings),
    "coordinator": Workbench.open_coordinator,
    "fleet": Workbench.open_fleet,
    "desk": lambda bench: desk_of(bench.settings),
    "outbox": Workbench.open_outbox,
    "inbox": lambda bench: Inbox(folder_of(bench.settings) / "inbox"),
    "answers": lambda bench: Answers(folder_of(bench.settings) / "answers", time.time),
    "progress": lambda bench: Progress(bench.settings.data_dir),
    "receipts": lambda bench: ReceiptLog(bench.settings.data_dir / "receipts"),
    "clock": lambda bench: time.time,
    "pace": lambda bench: Pace(
        rebroadcast_seconds=bench.settings.rebroadcast_seconds, deadline_seconds=bench.settings.confirm_seconds
    ),
}

_current: ContextVar[Workbench] = ContextVar("workbench")


@asynccontextmanager
async def open_workbench(network_name: str = "") -> AsyncIterator[Workbench]:
    """The workbench of this flow run; stages called inside find it by themselves."""
    settings = load_settings()
    install_logging()
    register_secrets_of(settings)
    bench = Workbench(network_name, settings)
    try:
        with working_at(bench):
            yield bench
    except MillraceError as error:
        redact_error(error)
        raise
    finally:
        await bench.close()


@contextmanager
def working_at(bench: Workbench) -> Iterator[None]:
    """Stages called inside take their tools from `bench`."""
    token = _current.set(bench)
    try:
        yield
    finally:
        _current.reset(token)


def current_workbench() -> Workbench:
    """The workbench that the running flow opened. LookupError outside one."""
    return _current.get()
