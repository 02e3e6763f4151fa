"""The demo's requests to OffchainVM: what each asks for, and how it must be answered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import wasmtime
from prefect.client.schemas.objects import FlowRun

from localnet.controls import CONTROL_PATH
from localnet.near import Dialect
from millrace.receipt import Receipt
from protocols.near.contract_views import Contract
from protocols.near.neardata import NeardataSource
from protocols.near.rpc import NearRpc

_LIMITS = {"max_instructions": 200_000_000, "max_memory_mb": 16, "max_execution_seconds": 10}
_TO_COUNT = "the mill turns as long as there is water"
_PATIENCE_SECONDS = 30.0

_START = '(module (memory (export "memory") 1) (func (export "_start") {}))'
_TRAP = _START.format("unreachable")
_LOOP = _START.format("(loop $l (br $l))")
_HOG = '(module (memory (export "memory") 4096) (func (export "_start")))'
"""Wants 256 MiB to begin with."""
_HELLO = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "the mill turns")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 14))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@dataclass(frozen=True)
class DemoRequest:
    """One request: a module as text, or a commit of the sample repository; and what must come of it.

    `status` is the runtime's word for how the program ended, empty if it must never have run. `shows` is what the
    result must contain.
    """

    title: str
    module: str = ""
    commit: str = ""
    status: str = ""
    shows: str = ""


@dataclass(frozen=True)
class Asked:
    """A request on the local chain."""

    request: DemoRequest
    job_id: str

    @property
    def title(self) -> str:
        """What it is called."""
        return self.request.title

    def key(self, addresses: dict[str, str]) -> str:
        """The job's key."""
        return f"offchainvm/localnet:{addresses['near_contract_id']}/{self.job_id}"


REQUEST_SETTINGS = {"MILLRACE_NEAR__START_BLOCK": "1000"}
"""The requests are made before anybody watches."""


def demo_requests(*, compiles: bool, addresses: dict[str, str]) -> tuple[DemoRequest, ...]:
    """The requests; without a builder a module stands in for what would be compiled."""
    programs = (
        DemoRequest("traps", module=_TRAP, status="unreachable", shows="unreachable"),
        DemoRequest("runs out of fuel", module=_LOOP, status="out_of_fuel", shows="out_of_fuel"),
        DemoRequest("wants 256 MiB", module=_HOG, status="memory", shows="memory"),
    )
    if not compiles or "sample_repo" not in addresses:
        return (DemoRequest("prebuilt module", module=_HELLO, status="ok", shows="the mill turns"), *programs)
    sample = DemoRequest(
        "is compiled",
        commit=addresses["sample_commit"],
        status="ok",
        shows="9 words, twice 18, in request 0: THE MILL TURNS",
    )
    return (sample, *programs, DemoRequest("unknown commit", commit="e" * 40, shows="does not have this commit"))


def make_requests(addresses: dict[str, str], requests: Sequence[DemoRequest]) -> list[Asked]:
    """Have all of them made on the local chain; returns when it has them."""
    with httpx.Client(timeout=10) as http:
        for request in requests:
            source = _source(http, addresses, request)
            args = {"source": source, "resource_limits": _LIMITS, "input_data": _TO_COUNT}
            _control(http, addresses, {"action": "request", "args": args})
    places = asyncio.run(_places(addresses, len(requests)))
    return [Asked(request, f"{places[number]}-{number}") for number, request in enumerate(requests)]


def _source(http: httpx.Client, addresses: dict[str, str], request: DemoRequest) -> dict[str, Any]:
    if request.commit:
        return {"GitHub": {"repo": addresses["sample_repo"], "commit": request.commit, "build_target": "wasm32-wasip1"}}
    content = bytes(wasmtime.wat2wasm(request.module))
    parameters = {"cid-version": "1", "raw-leaves": "true", "pin": "true"}
    reply = http.post(f"{addresses['ipfs_rpc_url']}/api/v0/add", params=parameters, files={"file": ("m.wasm", content)})
    cid = json.loads(reply.raise_for_status().text.splitlines()[-1])["Hash"]
    url = f"{addresses['ipfs_legacy_gateway_url']}/ipfs/{cid}"
    return {"WasmUrl": {"url": url, "hash": hashlib.sha256(content).hexdigest(), "build_target": "wasm32-wasip1"}}


async def _places(addresses: dict[str, str], count: int) -> dict[int, int]:
    """The height at which each request was made, by its id."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    async with NeardataSource(addresses["near_rpc_url"], addresses["near_contract_id"]) as source:
        height = int(REQUEST_SETTINGS["MILLRACE_NEAR__START_BLOCK"])
        while len(found) < count and time.monotonic() < deadline:
            seen = await source.at(height)
            if seen is None:
                await asyncio.sleep(0.2)
                continue
            found |= {each.request.request_id: height for each in seen.requests}
            height += 1
    return found


def request_faults(
    http: httpx.Client, addresses: dict[str, str], asked: Asked, run: FlowRun | None, receipt: Receipt | None
) -> list[str]:
    """Everything about this request that is not as it should be; empty if all is well."""
    if run is None or run.state_name != "Settled" or receipt is None:
        return [f"no receipt; its flow run is {run.state_name if run else 'missing'}"]
    status = receipt.execution.status if receipt.execution is not None else ""
    faults = [] if status == asked.request.status else [f"ended {status!r} instead of {asked.request.status!r}"]
    faults += asyncio.run(_chain_faults(addresses, asked, receipt))
    reply = http.get(f"{addresses['ipfs_legacy_gateway_url']}/ipfs/{receipt.result_cid}")
    if not reply.is_success:
        return [*faults, f"its result cannot be fetched: HTTP {reply.status_code}"]
    return faults if asked.request.shows in reply.text else [*faults, f"its result is {reply.text[:100]!r}"]


async def _chain_faults(addresses: dict[str, str], asked: Asked, receipt: Receipt) -> list[str]:
    request_id = int(asked.job_id.partition("-")[2])
    async with NearRpc([addresses["near_rpc_url"]]) as rpc:
        if await Contract(rpc, addresses["near_contract_id"], Dialect.head).get_request(request_id) is not None:
            return ["the contract still has it"]
        sent = await rpc.tx(receipt.transaction_id, receipt.worker)
    return [] if sent is not None and sent.succeeded else ["its transaction did not succeed"]


def answers_fault(http: httpx.Client, addresses: dict[str, str], count: int) -> list[str]:
    """What is wrong with how often the worker signed: once for each request."""
    sent = _control(http, addresses, {"action": "sent_by", "account_id": addresses["near_account_id"]})
    told = f"{len(sent)} transactions of the worker's on the chain instead of {count}"
    return [] if len(sent) == count else [told]


def _control(http: httpx.Client, addresses: dict[str, str], action: dict[str, Any]) -> Any:
    reply = http.post(f"{addresses['near_rpc_url']}{CONTROL_PATH}", json=action)
    return reply.raise_for_status().json()["result"]
