"""A coordinator beside the chain: it hands out what somebody asked the contract for."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import wasmtime
from endless_end import end_by_sigterm, until_it_listens
from offchainvm_world import World, prefect_variables
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.coordinator import coordinator
from localnet.coordinator import Board, CoordinatorLocalnet
from localnet.near import CONTRACT, Dialect
from millrace.receipt import Receipt
from millrace.receipt_log import ReceiptLog
from millrace.settings import load_settings
from protocols.coordinator.executions import ClaimedJob, execution_of
from protocols.coordinator.tasks import task_of
from stages.discover.coordinator import Desk, desk_of
from stages.discover.coordinator_opening import open_coordinator

TOKEN = "a-token-of-the-test"

RUST = {
    "Cargo.toml": b'[package]\nname = "tool"\nversion = "0.1.0"\nedition = "2021"\n'
    b'[lib]\ncrate-type = ["cdylib"]\n[profile.release]\npanic = "abort"\n',
    "src/lib.rs": b"""
static mut ANSWER: [u8; 8] = [4, 0, 0, 0, b'm', b'i', b'l', b'l'];
#[no_mangle]
pub extern "C" fn execute(_at: i32, _length: i32) -> i32 { &raw mut ANSWER as *mut u8 as i32 }
""",
}


class Office:
    """The coordinator, and what its worker has of it."""

    def __init__(self, world: World, net: CoordinatorLocalnet) -> None:
        self.world = world
        self.board: Board = net.board
        self.url = net.url
        self.tasks: dict[str, dict[str, Any]] = {}
        """What was queued as a task, by job id."""
        self.is_asking = False
        self.executions: dict[str, dict[str, Any]] = {}

    @property
    def desk(self) -> Desk:
        return desk_of(load_settings())

    # ---- work ----

    def repository(self, text: str) -> dict[str, Any]:
        """A source whose module the fleet has already: a commit that would not compile, and a module under its name."""
        repository = self.world.git.repository("alice/tool")
        commit = repository.commit({"README": text.encode()})
        url, target = self.world.git.url_of(repository), "wasm32-wasip1"
        for name in (f"{url}:{commit}:{target}", f"{url}{commit}{target}"):
            checksum = hashlib.sha256(name.encode()).hexdigest()
            self.board.put_wasm(checksum, bytes(wasmtime.wat2wasm(text)).hex())
        return {"repo": url, "commit": commit, "build_target": target}

    def hand_out(self, repository: dict[str, Any], **fields: Any) -> str:
        """Have a request made on the chain and queued here, by the API that goes with the contract; its job id."""
        if self.world.net.dialect is Dialect.early:
            return self.hand_out_task(repository, **fields)
        return self.hand_out_execution({"GitHub": repository}, **fields)

    def hand_out_task(self, repository: dict[str, Any], **fields: Any) -> str:
        _, request, data_id = self.world.announce(repository, **fields)
        job_id = f"{request['request_id']}-{data_id}"
        self.tasks[job_id] = {
            "request_id": request["request_id"],
            "data_id": data_id,
            # As the real one does: it forgets what the request's target was.
            "code_source": {**repository, "type": "GitHub", "build_target": "wasm32-unknown-unknown"},
            "resource_limits": request["resource_limits"],
            "input_data": request["input_data"],
        }
        self.board.create_task(self.tasks[job_id])
        return job_id

    def hand_out_execution(self, source: dict[str, Any], more: dict[str, Any] | None = None, **fields: Any) -> str:
        height, request, data_id = self.world.announce(source, **fields)
        ((kind, named),) = source.items()
        execution = {
            "request_id": request["request_id"],
            "data_id": data_id,
            "code_source": {"type": kind, **named},
            "resource_limits": request["resource_limits"],
            "input_data": request["input_data"],
            "response_format": request["response_format"],
            "compile_only": request["compile_only"],
            "context": {"sender_id": request["sender_id"], "block_height": height, "contract_id": CONTRACT},
            "near_payment_yocto": request["payment"],
            **(more or {}),
        }
        self.board.create_execution(execution)
        job_id = f"{request['request_id']}-{data_id}"
        self.executions[job_id] = execution
        return job_id

    def module(self, text: str) -> dict[str, Any]:
        """A source that is a module behind a URL, which the coordinator has as well."""
        source = self.world.module(text)
        self.board.put_wasm(source["WasmUrl"]["hash"], bytes(wasmtime.wat2wasm(text)).hex())
        return source

    # ---- other workers ----

    def other_worker_claims(self, capability: str) -> dict[str, Any]:
        """Another worker claims what was queued last."""
        execution = list(self.executions.values())[-1]
        flags = {"has_compile_result": False, "force_rebuild": False, "compile_only": False}
        asked = {**execution, **flags, "worker_id": "other", "capabilities": [capability]}
        self.board.queues.pop(("compile",), 0.0)
        (job,) = self.board.jobs.claim(asked)["jobs"]
        return cast("dict[str, Any]", job)

    def other_worker_tells(self, job_id: int, *, success: bool, error: str) -> None:
        assert self.board.jobs.complete({"job_id": job_id, "success": success, "error": error})

    @contextmanager
    def second_worker(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
        """The settings are those of a worker on another machine, without a builder, inside."""
        with monkeypatch.context() as patch, temporary_settings({PREFECT_LOCAL_STORAGE_PATH: folder / "results"}):
            patch.setenv("MILLRACE_DATA_DIR", str(folder))
            patch.setenv("MILLRACE_COMPILE__IMAGE", "")
            self.world.receipts = ReceiptLog(folder / "receipts")
            yield

    # ---- the worker ----

    def take(self) -> None:
        """Have all that is queued on the desk, as the long flow run would."""
        queues, names = self.board.queues, ("tasks", "compile", "execute")
        for name in names:
            while (entry := queues.pop((name,), 0.0)) is not None:
                self.desk.take(task_of(entry) if name == "tasks" else execution_of(entry))

    def claim(self, job_id: str, kind: str) -> None:
        """Note that the coordinator gave us this job of the request."""
        job = self.board.jobs._take((0, job_id), kind, {**self.executions[job_id], "worker_id": "ours"})
        claimed = ClaimedJob.model_validate({name: job[name] for name in ("job_id", "job_type", "wasm_checksum")})
        self.desk.change(job_id, claimed=(claimed,))

    async def killed_at(self, place: str, job_id: str) -> bool:
        """Whether a process of the worker's was killed there; see `killed_worker`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("killed_worker.py")),
            place,
            job_id,
            env={**os.environ, **prefect_variables()},
        )
        return await process.wait() == -signal.SIGKILL

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[list[State[Any]]]:
        """The coordinator's flow run is at work inside, and is ended as a stopping worker ends it."""
        ended: list[State[Any]] = []
        run = asyncio.ensure_future(coordinator(return_state=True))
        await until_it_listens(run)
        self.is_asking = True
        try:
            yield ended
        finally:
            self.is_asking = False
            ended.append(cast("State[Any]", await end_by_sigterm(run)))

    async def taken(self, job_id: str) -> None:
        await until(lambda: self.desk.find(job_id) is not None)

    async def told(self, call: str, count: int = 1) -> list[dict[str, Any]]:
        """What the coordinator was told by that call, once it is so much; told by us, if its flow run is not there."""
        if not self.is_asking:
            async with open_coordinator(load_settings()) as client:
                assert client is not None
                for report in self.desk.reports.waiting():
                    await report.tell(client)
                    self.desk.reports.told(report)
        await until(lambda: len(self.board.reports(call)) >= count)
        return self.board.reports(call)

    def receipt(self, job_id: str) -> Receipt:
        return self.world.receipt(job_id)


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if await asyncio.to_thread(holds):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


async def until_async(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.1)):
        if await holds():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come to that")


async def job_runs() -> list[FlowRun]:
    async with get_client() as client:
        return await client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["offchainvm-job"])))


@contextmanager
def office_of(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """A coordinator for the world's contract, and settings that name it; EARLY's contract has EARLY's API."""
    with CoordinatorLocalnet(token=TOKEN) as net:
        for name, value in {
            "API_BASE_URL": net.url,
            "API_AUTH_TOKEN": TOKEN,
            "MILLRACE_COORDINATOR__API": "tasks" if world.net.dialect is Dialect.early else "jobs",
            "POLL_TIMEOUT_SECONDS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        yield Office(world, net)
