"""What the node says became of a transaction: a hint that may be stale, and on request a lie."""

from __future__ import annotations

from typing import Any

from localnet.computechain.blocks import Block


class Receipts:
    """The answers of `GET /tx/{hash}/receipt`.

    `stuck` leaves them all "pending", as on the real node that accepted the transaction itself.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._accepted: dict[str, int] = {}
        self._forged: dict[str, dict[str, Any]] = {}

    def accept(self, tx_hash: str, seconds: float) -> None:
        """Note that the node took a transaction, at that Unix time. What expires later stays pending here."""
        self._accepted.setdefault(tx_hash, int(seconds))

    def forge(self, tx_hash: str, status: str, error: str | None, block_height: int | None) -> None:
        """Say this of a transaction from now on, whatever the blocks say."""
        self._forged[tx_hash] = _receipt(tx_hash, status, block_height, self._accepted.get(tx_hash, 0), error)

    def restart(self) -> None:
        """Forget what was only in memory."""
        self._accepted.clear()

    def answer(self, tx_hash: str, block: Block | None, tip_height: int) -> dict[str, Any] | None:
        """The receipt; None if the node never heard of the transaction. `block` is the readable one it is in."""
        if tx_hash in self._forged:
            return self._forged[tx_hash]
        if block is not None and not self.stuck:
            header = block.header
            confirmed = _receipt(tx_hash, "confirmed", header.height, header.timestamp, None)
            return {**confirmed, "confirmations": tip_height - header.height + 1}
        if block is not None or tx_hash in self._accepted:
            return _receipt(tx_hash, "pending", None, self._accepted.get(tx_hash, 0), None)
        return None


def _receipt(tx_hash: str, status: str, block_height: int | None, timestamp: int, error: str | None) -> dict[str, Any]:
    return {
        "tx_hash": tx_hash,
        "status": status,
        "block_height": block_height,
        "timestamp": timestamp,
        "error": error,
    }
