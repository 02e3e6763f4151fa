"""A chain with the OffchainVM contract, an IPFS, a Git host and a worker's data folder, for flows in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from prefect import State
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows import offchainvm, tasks
from flows.offchainvm import offchainvm_job
from flows.workbench import current_workbench
from localnet.git import GitLocalnet
from localnet.ipfs import IpfsLocalnet
from localnet.near import CONTRACT, OPERATOR, REQUESTER, Dialect, NearLocalnet
from millrace.receipt import Receipt
from millrace.receipt_log import ReceiptLog
from protocols.ipfs.cid import CID
from protocols.near.job import OffchainVmJob
from stages import admit
from stages.fetch.module import Module
from stages.submit.outbox import Outbox

LIMITS = {"max_instructions": 50_000_000, "max_memory_mb": 16, "max_execution_seconds": 5}

ECHO = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
LENGTH = """(module (memory (export "memory") 1)
  (func (export "execute") (param i32 i32) (result i32)
    (i32.store (i32.const 1024) (i32.const 4)) (i32.store (i32.const 1028) (local.get 1)) (i32.const 1024)))"""
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
TRAP = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
HOG = """(module (memory (export "memory") 1) (func (export "_start")
  (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))))"""


class World:
    """A chain with the contract, an IPFS, a Git host, and a worker's data folder."""

    def __init__(self, net: NearLocalnet, ipfs: IpfsLocalnet, git: GitLocalnet, folder: Path) -> None:
        self.net, self.chain, self.ipfs, self.git, self.folder = net, net.chain, ipfs, git, folder
        self.outbox = Outbox(folder / "outbox")
        self.receipts = ReceiptLog(folder / "receipts")

    def module(self, text: str) -> dict[str, Any]:
        """A source that names a module which anybody can fetch."""
        content = bytes(wasmtime.wat2wasm(text))
        cid = self.ipfs.add(content)
        url = f"{self.ipfs.legacy_gateway_url}/ipfs/{cid}"
        return {"WasmUrl": {"url": url, "hash": hashlib.sha256(content).hexdigest(), "build_target": "wasm32-wasip1"}}

    def ask(self, source: dict[str, Any], **fields: Any) -> str:
        """Have a request made; the id of its job, once it is in a block."""
        height, request, _ = self.announce(source, **fields)
        return f"{height}-{request['request_id']}"

    def announce(self, source: dict[str, Any], **fields: Any) -> tuple[int, dict[str, Any], str]:
        """Have a request made; its height, what the contract's event says of it, and its data id in hex."""
        named = "code_source" if self.net.dialect is Dialect.early else "source"
        sent = self.chain.request({named: source, "resource_limits": LIMITS, **fields})
        self.chain.make_block(2)
        for outcome in self.chain.outcomes_of(sent):
            for line in outcome.logs:
                if "execution_requested" in line:
                    entry = json.loads(line.removeprefix("EVENT_JSON:"))["data"][0]
                    return outcome.height, json.loads(entry["request_data"]), bytes(entry["data_id"]).hex()
        raise AssertionError(f"no request came of {self.chain.result_of(sent)}")

    async def killed_at(self, place: str, job_id: str, module: str) -> bool:
        """Whether a process was killed at that place that did the job; see `killed_request`."""
        text = self.folder / "module.wat"
        text.write_text(module)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("killed_request.py")),
            place,
            job_id,
            str(text),
            env={**os.environ, **prefect_variables()},
        )
        return await process.wait() == -signal.SIGKILL

    async def do(self, job_id: str) -> State[Any]:
        state: State[Any] = await offchainvm_job(job_id, return_state=True)
        return state

    def receipt(self, job_id: str) -> Receipt:
        found = self.receipts.find(f"offchainvm/localnet:{CONTRACT}/{job_id}")
        assert found is not None
        return found

    def read(self, cid: str) -> bytes:
        return self.ipfs.store.read(CID.parse(cid))

    def answered(self) -> Any:
        """What the requester's newest transaction came to."""
        for height in range(self.chain.height(), 0, -1):
            block = self.chain.block(height)
            for sent in block.transactions if block else ():
                if sent.transaction.signer_id == REQUESTER:
                    return self.chain.result_of(sent.hash)
        raise AssertionError("nobody asked")

    def resolutions(self) -> int:
        """Transactions of the operator's in blocks."""
        blocks = [self.chain.block(height) for height in range(self.chain.height() + 1)]
        return sum(sent.transaction.signer_id == OPERATOR for block in blocks if block for sent in block.transactions)


def stand_in_for_the_builder(text: str, patch: Callable[[Any, str, Any], None]) -> None:
    """Have every repository come to the module `text`, where there is nothing to compile with."""

    async def module_of(job: OffchainVmJob, image: str, checksum: str = "") -> Module:
        content, module = await current_workbench().tool("content"), bytes(wasmtime.wat2wasm(text))
        cid, sha256 = content.store.put(module), hashlib.sha256(module).hexdigest()
        return Module(
            cid=str(cid), sha256=sha256, size_bytes=len(module), target=job.target, source=job.told_source, seconds=1.0
        )

    patch(offchainvm, "module_of", module_of)
    patch(admit, "image_digest", lambda _: "sha256:none")


def prefect_variables() -> dict[str, str]:
    """What another process needs to find the same Prefect server and results."""
    return {
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "PREFECT_LOCAL_STORAGE_PATH": str(PREFECT_LOCAL_STORAGE_PATH.value()),
    }


@contextmanager
def offchainvm_world(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, finality_lag: int = 0
) -> Iterator[World]:
    """The world, with settings that name it; blocks come by themselves."""
    monkeypatch.chdir(tmp_path)
    for stage in (tasks.publish_run, tasks.fetch_source, tasks.fetch_module):
        monkeypatch.setattr(stage.task, "retry_delay_seconds", [0.0] * 5)
    with (
        NearLocalnet(dialect, block_seconds=0.25, finality_lag=finality_lag) as net,
        IpfsLocalnet(tmp_path / "ipfs") as ipfs,
        GitLocalnet(tmp_path / "git") as git,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}),
    ):
        for name, value in {
            "NEAR_RPC_URL": net.url,
            "NEARDATA_API_URL": net.url,
            "OFFCHAINVM_CONTRACT_ID": CONTRACT,
            "OPERATOR_ACCOUNT_ID": OPERATOR,
            "OPERATOR_PRIVATE_KEY": net.operator.secret_key,
            "MILLRACE_DATA_DIR": str(tmp_path),
            "MILLRACE_IPFS__GATEWAYS": ipfs.gateway_url,
            "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS": "true",
            "MILLRACE_IPFS__PINATA_API": ipfs.pinata_url,
            "PINATA_JWT": ipfs.pinata_jwt,
            "MILLRACE_COMPILE__ALLOW_PRIVATE_HOSTS": "true",
            "MILLRACE_COMPILE__HOSTS": "127.0.0.1",
            "MILLRACE_COMPILE__IMAGE": os.environ.get("TEST_BUILDER_IMAGE", ""),
        }.items():
            monkeypatch.setenv(name, value)
        yield World(net, ipfs, git, tmp_path)
