"""A plain client of the local NEAR: the tests of the stand-in use none of ours."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import httpx

from localnet.near import CONTRACT, OPERATOR, Dialect, NearLocalnet
from protocols.near.transactions import FunctionCall

SOURCE = {"repo": "https://github.com/alice/module", "commit": "c0ffee", "build_target": "wasm32-wasip1"}
NEAR = 10**24


class FakeClock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_760_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class NearClient:
    """Calls the node at `net` over HTTP, and its contract as the operator."""

    net: NearLocalnet
    http: httpx.Client

    def rpc(self, method: str, params: Any) -> dict[str, Any]:
        """The whole answer."""
        body = {"jsonrpc": "2.0", "id": "t", "method": method, "params": params}
        answer: dict[str, Any] = self.http.post(self.net.url, json=body).json()
        assert answer["id"] == "t"
        return answer

    def result(self, method: str, params: Any) -> Any:
        """The result; fails on an error."""
        answer = self.rpc(method, params)
        assert "result" in answer, answer
        return answer["result"]

    def view(self, method: str, **args: Any) -> Any:
        """What a view method returns."""
        packed = base64.b64encode(json.dumps(args).encode()).decode()
        question = {"request_type": "call_function", "finality": "final", "account_id": CONTRACT}
        found = self.result("query", {**question, "method_name": method, "args_base64": packed})
        return json.loads(bytes(found["result"]))

    def blocks(self, count: int) -> None:
        """Make blocks."""
        self.net.chain.make_block(count)

    def request(self, **more: Any) -> tuple[str, dict[str, Any]]:
        """A request that is there; its transaction's hash and its event's entry."""
        tx_hash = self.net.chain.request(self.request_args(**more))
        self.blocks(2)
        return tx_hash, self.events(tx_hash, "execution_requested")[0]

    def request_args(self, **more: Any) -> dict[str, Any]:
        """Arguments of `request_execution`."""
        if self.net.dialect is Dialect.early:
            return {"code_source": SOURCE, **more}
        limits = {"max_instructions": 10_000_000, "max_memory_mb": 16, "max_execution_seconds": 2}
        return {"source": {"GitHub": SOURCE}, "resource_limits": limits, **more}

    def events(self, tx_hash: str, event: str) -> list[dict[str, Any]]:
        """Entries of the events of that name in the transaction's logs."""
        marked = [line for line in self.logs(tx_hash) if line.startswith("EVENT_JSON:")]
        documents = [json.loads(line.removeprefix("EVENT_JSON:")) for line in marked]
        return [entry for each in documents if each["event"] == event for entry in each["data"]]

    def logs(self, tx_hash: str) -> list[str]:
        """All logs of the transaction's receipts."""
        return [line for outcome in self.net.chain.outcomes_of(tx_hash) for line in outcome.logs]

    def call(self, method: str, args: Any, blocks: int = 4) -> Any:
        """Call the contract as the operator, make blocks; returns the transaction's status."""
        call = FunctionCall(method, json.dumps(args).encode(), 10**14)
        tx_hash = self.net.chain.call(self.net.operator, OPERATOR, CONTRACT, (call,)).hash
        self.blocks(blocks)
        return self.net.chain.result_of(tx_hash)

    def value_of(self, tx_hash: str) -> Any:
        """The JSON that the transaction returned."""
        status = self.net.chain.result_of(tx_hash)
        return json.loads(base64.b64decode(status["SuccessValue"]))

    def words_of(self, status: Any) -> str:
        """The contract's words in a failure."""
        words: str = status["Failure"]["ActionError"]["kind"]["FunctionCallError"]["ExecutionError"]
        return words
