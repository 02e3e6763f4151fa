"""RPC methods that send, simulate and look up transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.hash import Hash
from solders.message import Message, MessageV0
from solders.transaction import VersionedTransaction

from localnet.solana.accounts import StoredAccount
from localnet.solana.chain import BLOCKHASH_LIFE_BLOCKS, Chain
from localnet.solana.request import View, list_of, view_of
from localnet.solana.rpc_error import PREFLIGHT_FAILURE, SIGNATURE_VERIFICATION_FAILURE, RpcError, invalid
from localnet.solana.runtime_error import words
from localnet.solana.slots import COMMITMENT_LAG
from localnet.solana.transactions import LandedTransaction
from localnet.solana.wire import (
    account_json,
    address_of,
    count_of,
    execution_json,
    known_version,
    landed_json,
    signature_of,
    status_json,
    transaction_of,
)

MOST_STATUSES = 256
MOST_SIGNATURES = 1_000
RECENT_SLOTS = 300
"""How long a status is known without a search of the history."""


class TransactionMethods:
    """Transactions on their way and in blocks."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Every method by its name on the wire."""
        return {
            "sendTransaction": self.send_transaction,
            "simulateTransaction": self.simulate_transaction,
            "requestAirdrop": self.request_airdrop,
            "getSignatureStatuses": self.signature_statuses,
            "getTransaction": self.transaction,
            "getSignaturesForAddress": self.signatures_for_address,
        }

    def send_transaction(self, encoded: Any, config: Any = None) -> str:
        """Check a transaction on the state of `preflightCommitment`, then pass it on; returns its signature.

        That it was passed on says nothing about whether it lands. `maxRetries` is accepted and means
        nothing: this node never sends twice.
        """
        view = view_of(self._chain, config, commitment_field="preflightCommitment")
        transaction = transaction_of(encoded, view.config.get("encoding") or "base58")
        if not view.config.get("skipPreflight"):
            if not all(transaction.verify_with_results()):
                raise RpcError(SIGNATURE_VERIFICATION_FAILURE, "Transaction signature verification failure")
            execution, _ = self._chain.simulate(transaction, view.slot)
            if execution.error is not None:
                message = f"Transaction simulation failed: {words(execution.error)}"
                raise RpcError(PREFLIGHT_FAILURE, message, execution_json(execution))
        self._chain.receive(transaction)
        return str(transaction.signatures[0])

    def simulate_transaction(self, encoded: Any, config: Any = None) -> dict[str, Any]:
        """Run a transaction and tell what it would do."""
        view = view_of(self._chain, config)
        transaction = transaction_of(encoded, view.config.get("encoding") or "base58")
        replacement = None
        if view.config.get("replaceRecentBlockhash"):
            if view.config.get("sigVerify"):
                raise invalid("sigVerify may not be used with replaceRecentBlockhash")
            replacement = self._chain.blockhash(view.slot)
            transaction = _with_blockhash(transaction, Hash.from_string(replacement))
        elif view.config.get("sigVerify") and not all(transaction.verify_with_results()):
            raise RpcError(SIGNATURE_VERIFICATION_FAILURE, "Transaction signature verification failure")
        execution, after = self._chain.simulate(transaction, view.slot)
        answer = execution_json(execution)
        if execution.error is None and (wanted := view.config.get("accounts")) is not None:
            answer["accounts"] = self._accounts_after(wanted, after, view)
        if replacement is not None:
            last = self._chain.block_height(view.slot) + BLOCKHASH_LIFE_BLOCKS
            answer["replacementBlockhash"] = {"blockhash": replacement, "lastValidBlockHeight": last}
        return view.with_context(answer)

    def request_airdrop(self, address: Any, lamports: Any, config: Any = None) -> str:
        """Have the faucet pay; returns the signature of its transaction."""
        view_of(self._chain, config)
        return self._chain.request_airdrop(address_of(address), count_of(lamports))

    def signature_statuses(self, signatures: Any, config: Any = None) -> dict[str, Any]:
        """Status of each transaction; null for one that did not land, or too long ago to be told without a search."""
        view = view_of(self._chain, {"commitment": "processed"})
        search = bool((config or {}).get("searchTransactionHistory"))
        wanted = [signature_of(signature) for signature in list_of(signatures, MOST_STATUSES)]
        return view.with_context([self._status(signature, view.slot, search) for signature in wanted])

    def transaction(self, signature: Any, config: Any = None) -> dict[str, Any] | None:
        """A transaction in a block of at least `confirmed`; null if there is none."""
        bare_encoding = {"encoding": config} if isinstance(config, str) else config
        view = view_of(self._chain, bare_encoding, at_least="confirmed")
        landed = self._chain.log.get(signature_of(signature))
        if landed is None or landed.slot > view.slot:
            return None
        if (
            isinstance(landed.transaction.message, MessageV0)
            and view.config.get("maxSupportedTransactionVersion") is None
        ):
            raise RpcError(
                -32015,
                "Transaction version (0) is not supported by the requesting client. Please try the request again"
                ' with the following configuration parameter: "maxSupportedTransactionVersion": 0',
            )
        block_time = self._chain.slots.unix_seconds(landed.slot)
        return landed_json(landed, view.config.get("encoding") or "json", block_time)

    def signatures_for_address(self, address: Any, config: Any = None) -> list[dict[str, Any]]:
        """The transactions that named an address, newest first, between `before` and `until`."""
        view = view_of(self._chain, config, at_least="confirmed")
        limit = view.config.get("limit")
        most = MOST_SIGNATURES if limit is None else count_of(limit)
        if not 0 < most <= MOST_SIGNATURES:
            raise invalid(f"Invalid limit; max {MOST_SIGNATURES}")
        before, until = view.config.get("before"), view.config.get("until")
        found: list[dict[str, Any]] = []
        started = before is None
        for landed in reversed(self._chain.log.touching(address_of(address))):
            if landed.signature == until or len(found) == most:
                break
            if started and landed.slot <= view.slot:
                found.append(self._signature_json(landed))
            started = started or landed.signature == before
        return found

    def _signature_json(self, landed: LandedTransaction) -> dict[str, Any]:
        return {
            "signature": landed.signature,
            "slot": landed.slot,
            "err": landed.execution.error,
            "memo": None,
            "blockTime": self._chain.slots.unix_seconds(landed.slot),
            "confirmationStatus": _confirmation(self._chain.slots.slot - landed.slot),
        }

    def _status(self, signature: str, slot: int, search: bool) -> dict[str, Any] | None:
        landed = self._chain.log.get(signature)
        if landed is None or (slot - landed.slot > RECENT_SLOTS and not search):
            return None
        age = slot - landed.slot
        status = _confirmation(age)
        return {
            "slot": landed.slot,
            "confirmations": None if status == "finalized" else age,
            "err": landed.execution.error,
            "status": status_json(landed.execution),
            "confirmationStatus": status,
        }

    def _accounts_after(self, wanted: Any, after: dict[str, StoredAccount | None], view: View) -> list[Any]:
        addresses = [address_of(address) for address in wanted.get("addresses", [])]
        config = {"encoding": wanted.get("encoding") or "base64"}
        found = [
            after[address] if address in after else self._chain.account_at(address, view.slot) for address in addresses
        ]
        return [None if account is None else account_json(account, config) for account in found]


def _confirmation(age_slots: int) -> str:
    reached = [name for name, lag in COMMITMENT_LAG.items() if age_slots >= lag]
    return reached[-1]


def _with_blockhash(transaction: VersionedTransaction, blockhash: Hash) -> VersionedTransaction:
    """The same transaction on another blockhash; its signatures no longer fit it."""
    message = known_version(transaction.message)
    replaced: Message | MessageV0
    if isinstance(message, MessageV0):
        replaced = MessageV0(
            message.header, message.account_keys, blockhash, message.instructions, message.address_table_lookups
        )
    else:
        header = message.header
        replaced = Message.new_with_compiled_instructions(
            header.num_required_signatures,
            header.num_readonly_signed_accounts,
            header.num_readonly_unsigned_accounts,
            message.account_keys,
            blockhash,
            message.instructions,
        )
    return VersionedTransaction.populate(replaced, transaction.signatures)
