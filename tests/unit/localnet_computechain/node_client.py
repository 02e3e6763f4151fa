"""The barest client of a node, and transactions made by hand: what the node gets is what a test wrote."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx

from protocols.computechain.keys import ComputeKey

GAS = 80_000
Document = dict[str, Any]


class FakeClock:
    """Unix time that passes when a test says so."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class NodeClient:
    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(self.url + path, params=query)

    def read(self, path: str, **query: Any) -> Document:
        answer = self.get(path, **query)
        assert answer.status_code == 200, answer.text
        document: Document = answer.json()
        return document

    def post(self, document: Any) -> httpx.Response:
        # ASCII only, so that half a surrogate pair can be sent as well.
        return self.http.post(f"{self.url}/tx/send", content=json.dumps(document))

    def send(self, document: Document) -> str:
        """Send what is to be accepted; returns the hash."""
        answer = self.post(document)
        assert (answer.status_code, answer.json()["status"]) == (200, "received"), answer.text
        assert answer.json() == {"tx_hash": hash_of(document), "status": "received"}
        return hash_of(document)

    def rejected(self, document: Document) -> str:
        """Send what is to be rejected; returns the node's reason."""
        answer = self.post(document)
        assert (answer.status_code, answer.json()["status"]) == (200, "rejected"), answer.text
        assert set(answer.json()) == {"tx_hash", "status", "error"}
        reason: str = answer.json()["error"]
        return reason

    def height(self) -> int:
        height: int = self.read("/status")["height"]
        return height

    def block(self, height: int) -> Document:
        return self.read(f"/block/{height}")

    def tip(self) -> Document:
        return self.block(self.height())

    def balance(self, address: str) -> int:
        return int(self.read(f"/balance/{address}")["balance"])

    def nonce(self, address: str, pending: bool = True) -> int:
        nonce: int = self.read(f"/nonce/{address}", pending=str(pending).lower())["nonce"]
        return nonce

    def receipt(self, tx_hash: str) -> Document:
        return self.read(f"/tx/{tx_hash}/receipt")

    def control(self, action: str, **parameters: Any) -> Any:
        answer = self.http.post(f"{self.url}/_localnet", json={"action": action, **parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]


def preimage_of(document: Document) -> str:
    """The text whose SHA-256 is the transaction's hash, written out once more."""
    return (
        str(document["tx_type"])
        + str(document["from_address"])
        + str(document.get("to_address") or "")
        + str(int(document["amount"]))
        + str(int(document["fee"]))
        + str(int(document["nonce"]))
        + str(int(document["gas_price"]))
        + str(int(document["gas_limit"]))
        + json.dumps(document["payload"], sort_keys=True, separators=(",", ":"))
        + str(document["pub_key"])
    )


def hash_of(document: Document) -> str:
    return hashlib.sha256(preimage_of(document).encode()).hexdigest()


def result_of(address: str, **fields: Any) -> Document:
    """A compute result as the node wants it; a field given as `...` is left out."""
    chosen = {
        "task_id": "550e8400-e29b-41d4-a716-446655440000",
        "worker_address": address,
        "result_hash": "ab" * 32,
        "proof": "",
        "nonce": 7,
        "signature": "",
        **fields,
    }
    return {name: value for name, value in chosen.items() if value is not ...}


def signed(key: ComputeKey, nonce: int = 0, **fields: Any) -> Document:
    """A SUBMIT_RESULT with the lowest fee, changed by `fields`, then signed."""
    gas_price = fields.get("gas_price", 1_000)
    document = {
        "tx_type": "SUBMIT_RESULT",
        "from_address": key.address,
        "to_address": None,
        "amount": 0,
        "fee": GAS * int(gas_price),
        "nonce": nonce,
        "signature": "",
        "pub_key": key.public_key,
        "payload": result_of(key.address),
        "gas_price": gas_price,
        "gas_limit": GAS,
        **fields,
    }
    document["signature"] = key.sign(bytes.fromhex(hash_of(document)))
    return document


def payment(key: ComputeKey, to_address: str | None, wei: int, nonce: int = 0, **fields: Any) -> Document:
    """A signed TRANSFER."""
    chosen = {"tx_type": "TRANSFER", "to_address": to_address, "amount": wei, "payload": {}, **fields}
    return signed(key, nonce, **chosen)
