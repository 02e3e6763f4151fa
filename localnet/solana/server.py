"""JSON-RPC over HTTP on 127.0.0.1, with the faults that a public node shows on a bad day."""

from __future__ import annotations

import json
from typing import Any

from localnet.controls import CONTROL_PATH, control
from localnet.faults import INSTEAD_OF_AN_ANSWER, Fault
from localnet.http_server import Connection, StandInServer
from localnet.solana.chain import UNHEALTHY, Chain
from localnet.solana.controls import actions
from localnet.solana.rpc import Rpc
from localnet.solana.rpc_error import INVALID_REQUEST, NODE_UNHEALTHY, PARSE_ERROR

_SLOTS_BEHIND = 150


class Server(StandInServer):
    """Serves one chain."""

    def __init__(self, chain: Chain, port: int) -> None:
        super().__init__(port, _Connection, "localnet-solana")
        self.chain = chain
        self.rpc = Rpc(chain)


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        if self.path == "/health":
            self.reply(200, b"ok", content_type="text/plain")
        else:
            self.reply(405, b"Used HTTP Method is not allowed. POST is required", content_type="text/plain")

    def on_post(self, body: bytes) -> None:
        try:
            document = json.loads(body)
        except ValueError:
            return self.reply_json(200, _error(PARSE_ERROR, "Parse error"))
        if self.path == CONTROL_PATH:
            return self.reply_json(*control(actions(self.server.chain), document))
        return self._answer(document)

    def _answer(self, document: Any) -> None:
        requests = document if isinstance(document, list) else [document]
        if not requests:
            return self.reply_json(200, _error(INVALID_REQUEST, "Invalid request"))
        fault = self._count_and_take_fault(requests)
        if fault is not None and fault.kind == UNHEALTHY:
            return self._be_unhealthy(requests[0])
        if fault is not None and fault.kind in INSTEAD_OF_AN_ANSWER:
            return self.misbehave(fault, _error(fault.status, f"localnet was asked to answer {fault.status}"))
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        answers = [self.server.rpc.answer(request) for request in requests]
        if fault is not None and fault.kind == "lost_reply":
            return self.reset()
        body = json.dumps(answers if isinstance(document, list) else answers[0], separators=(",", ":")).encode()
        return self.reply(200, body, fault=fault)

    def _count_and_take_fault(self, requests: list[Any]) -> Fault | None:
        """Count every call, also those that fail; the first fault any of them meets is the whole reply's."""
        chain = self.server.chain
        fault = None
        with chain.lock:
            for request in requests:
                method = request.get("method") if isinstance(request, dict) else None
                if isinstance(method, str):
                    chain.calls[method] += 1
                    fault = fault or chain.faults.take(method)
        return fault

    def _be_unhealthy(self, request: Any) -> None:
        message = f"Node is behind by {_SLOTS_BEHIND} slots"
        request_id = request.get("id") if isinstance(request, dict) else None
        self.reply_json(200, _error(NODE_UNHEALTHY, message, request_id, {"numSlotsBehind": _SLOTS_BEHIND}))


def _error(code: int, message: str, request_id: Any = None, extra: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message, **({} if extra is None else {"data": extra})}
    return {"jsonrpc": "2.0", "error": error, "id": request_id}
