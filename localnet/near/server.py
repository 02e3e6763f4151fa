"""RPC and block server over HTTP on 127.0.0.1, with the faults that nodes show on a bad day."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from localnet.controls import CONTROL_PATH, control
from localnet.faults import INSTEAD_OF_AN_ANSWER, Fault
from localnet.http_server import Connection
from localnet.near.chain import Chain
from localnet.near.controls import actions
from localnet.near.json_views import neardata_view
from localnet.near.rpc import answer
from localnet.near.rpc_fault import RpcFault, parse_error
from localnet.ticking_server import TickingServer

_BLOCK_PATH = re.compile(r"/v0/block/(\d{1,18})/?")


class Server(TickingServer):
    """Serves one chain, and sees to it that its blocks come in time when nobody asks.

    Arguments: `wait_seconds` is how long a call waits for a transaction before it answers that time is up.
    """

    def __init__(self, chain: Chain, port: int, wait_seconds: float) -> None:
        super().__init__(port, _Connection, "localnet-near", chain.settle)
        self.chain = chain
        self.wait_seconds = wait_seconds

    def stop(self) -> None:
        """As every server, but first let go of those who wait for the chain."""
        self.chain.stopping.set()
        super().stop()


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        path = urlsplit(self.path).path
        block = _BLOCK_PATH.fullmatch(path)
        if block is not None:
            return self._call("neardata", lambda: self._whole_block(int(block[1])))
        if path == "/status":
            return self._call("status", lambda: (200, answer(self.server.chain, "status", [], 0.0)))
        return self.reply_json(404, {"error": "not found"})

    def on_post(self, body: bytes) -> None:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            return self.reply_json(400, {"error": str(error)})
        if self.path == CONTROL_PATH:
            return self.reply_json(*control(actions(self.server.chain), document))
        if not isinstance(document, dict):
            return self.reply_json(400, _failed(None, parse_error("expected an object")))
        return self._call(str(document.get("method")), lambda: self._rpc(document))

    def _rpc(self, document: dict[str, Any]) -> tuple[int, Any]:
        server, identity = self.server, document.get("id")
        try:
            result = answer(server.chain, str(document.get("method")), document.get("params"), server.wait_seconds)
        except RpcFault as fault:
            return fault.http_status, _failed(identity, fault)
        return 200, {"jsonrpc": "2.0", "result": result, "id": identity}

    def _whole_block(self, height: int) -> tuple[int, Any]:
        """A final block. Real servers hold on to the question for the very next one; this answers 404 at once."""
        chain = self.server.chain
        with chain.lock:
            if height > chain.final_block().height:
                return 404, {"error": "no such block yet"}
            block = chain.block(height)
            return 200, None if block is None else neardata_view(chain, block)

    def _call(self, name: str, do: Callable[[], tuple[int, Any]]) -> None:
        fault = self._count_and_take_fault(name)
        if fault is not None and fault.kind in INSTEAD_OF_AN_ANSWER:
            return self.misbehave(fault, {"error": f"localnet was asked to answer {fault.status}"})
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        status, document = do()
        if fault is not None and fault.kind == "lost_reply":
            return self.reset()
        content = json.dumps(document, separators=(",", ":")).encode()
        return self.reply(status, content, fault=fault)

    def _count_and_take_fault(self, name: str) -> Fault | None:
        chain = self.server.chain
        with chain.lock:
            chain.calls[name] += 1
            return chain.faults.take(name)


def _failed(identity: Any, fault: RpcFault) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": fault.body(), "id": identity}
