"""The JSON-RPC methods: which there are, and how a request finds its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from localnet.solana.chain import Chain
from localnet.solana.rpc_accounts import AccountMethods
from localnet.solana.rpc_cluster import ClusterMethods
from localnet.solana.rpc_error import INVALID_REQUEST, METHOD_NOT_FOUND, RpcError, invalid
from localnet.solana.rpc_transactions import TransactionMethods

Method = Callable[..., Any]


class Rpc:
    """Answers JSON-RPC requests about one chain, one at a time."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._methods: dict[str, Method] = {}
        for group in (ClusterMethods(chain), AccountMethods(chain), TransactionMethods(chain)):
            self._methods.update(group.methods())

    def answer(self, request: Any) -> dict[str, Any]:
        """The response to one request; every fault of the request is a JSON-RPC error in it."""
        response: dict[str, Any] = {"jsonrpc": "2.0", "id": request.get("id") if isinstance(request, dict) else None}
        try:
            response["result"] = self._call(request)
        except RpcError as error:
            response["error"] = error.as_json()
        return response

    def _call(self, request: Any) -> Any:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise RpcError(INVALID_REQUEST, "Invalid request")
        method = self._methods.get(request["method"])
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        params = request.get("params") or []
        if not isinstance(params, list):
            raise invalid("Invalid params: expected a sequence.")
        try:
            inspect.signature(method).bind(*params)
        except TypeError as error:
            raise invalid(f"Invalid params: {error}.") from error
        with self._chain.lock:
            self._chain.settle()
            return method(*params)
