"""The barest client: what the server sends is what a test sees."""

from __future__ import annotations

from typing import Any

import httpx
from job_abi import encoded
from solders.transaction import VersionedTransaction


class RpcClient:
    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def post(self, document: Any) -> httpx.Response:
        return self.http.post(self.url, json=document)

    def raw(self, method: str, *params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.post({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}).json()
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
        return answer

    def __call__(self, method: str, *params: Any) -> Any:
        answer = self.raw(method, *params)
        assert "result" in answer, answer
        return answer["result"]

    def error(self, method: str, *params: Any) -> dict[str, Any]:
        answer = self.raw(method, *params)
        assert "error" in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def blockhash(self, commitment: str = "confirmed") -> str:
        found: str = self("getLatestBlockhash", {"commitment": commitment})["value"]["blockhash"]
        return found

    def send(self, transaction: VersionedTransaction, **config: Any) -> str:
        chosen = {"encoding": "base64", "preflightCommitment": "confirmed", **config}
        signature: str = self("sendTransaction", encoded(transaction), chosen)
        return signature

    def refused(self, transaction: VersionedTransaction, **config: Any) -> dict[str, Any]:
        chosen = {"encoding": "base64", "preflightCommitment": "confirmed", **config}
        return self.error("sendTransaction", encoded(transaction), chosen)

    def status(self, signature: str, **config: Any) -> Any:
        return self("getSignatureStatuses", [signature], config)["value"][0]

    def control(self, action: str, **parameters: Any) -> httpx.Response:
        return self.http.post(f"{self.url}/_localnet", json={"action": action, **parameters})
