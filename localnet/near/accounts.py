"""Accounts and access keys, and why a transaction is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from localnet.near.receipts import GAS_PRICE_YOCTO, TRANSACTION_GAS
from protocols.near.keys import public_key_text
from protocols.near.transactions import Transaction

NONCES_A_BLOCK = 1_000_000
"""A new key's nonce begins at this times the height; none may be this far ahead of the chain."""


@dataclass
class AccessKey:
    """A key's nonce; restricted to calls of `receiver_id` (and `methods`, if any) unless that is empty."""

    nonce: int
    receiver_id: str = ""
    methods: tuple[str, ...] = ()
    allowance_yocto: int | None = None

    def permission(self) -> Any:
        """As the RPC writes it."""
        if not self.receiver_id:
            return "FullAccess"
        allowance = None if self.allowance_yocto is None else str(self.allowance_yocto)
        return {
            "FunctionCall": {
                "allowance": allowance,
                "receiver_id": self.receiver_id,
                "method_names": list(self.methods),
            }
        }


@dataclass
class Account:
    """A balance in yoctoNEAR, and keys by their text."""

    balance_yocto: int = 0
    keys: dict[str, AccessKey] = field(default_factory=dict)


Accounts = dict[str, Account]


def cost_of(transaction: Transaction) -> int:
    """What an account needs for a transaction: its deposits, and all the gas it attaches."""
    gas = TRANSACTION_GAS + sum(call.gas for call in transaction.calls)
    return gas * GAS_PRICE_YOCTO + sum(call.deposit_yocto for call in transaction.calls)


def refusal(transaction: Transaction, accounts: Accounts, height: int) -> Any:
    """The InvalidTxError for a transaction whose signature and block hash are right; None if there is none."""
    account = accounts.get(transaction.signer_id)
    if account is None:
        return {"SignerDoesNotExist": {"signer_id": transaction.signer_id}}
    public_key = public_key_text(transaction.public_key)
    key = account.keys.get(public_key)
    if key is None:
        missing = {"account_id": transaction.signer_id, "public_key": public_key}
        return {"InvalidAccessKeyError": {"AccessKeyNotFound": missing}}
    if transaction.nonce <= key.nonce:
        return {"InvalidNonce": {"tx_nonce": transaction.nonce, "ak_nonce": key.nonce}}
    bound = (height + 1) * NONCES_A_BLOCK
    if transaction.nonce >= bound:
        return {"NonceTooLarge": {"tx_nonce": transaction.nonce, "upper_bound": bound}}
    if account.balance_yocto < cost_of(transaction):
        amounts = {"balance": str(account.balance_yocto), "cost": str(cost_of(transaction))}
        return {"NotEnoughBalance": {"signer_id": transaction.signer_id, **amounts}}
    return _permission_refusal(transaction, key, public_key)


def _permission_refusal(transaction: Transaction, key: AccessKey, public_key: str) -> Any:
    if not key.receiver_id:
        return None
    if len(transaction.calls) != 1:
        return {"InvalidAccessKeyError": "RequiresFullAccess"}
    call = transaction.calls[0]
    if call.deposit_yocto:
        return {"InvalidAccessKeyError": "DepositWithFunctionCall"}
    if transaction.receiver_id != key.receiver_id:
        wrong = {"tx_receiver": transaction.receiver_id, "ak_receiver": key.receiver_id}
        return {"InvalidAccessKeyError": {"ReceiverMismatch": wrong}}
    if key.methods and call.method not in key.methods:
        return {"InvalidAccessKeyError": {"MethodNameMismatch": {"method_name": call.method}}}
    if key.allowance_yocto is not None and key.allowance_yocto < cost_of(transaction):
        short = {
            "account_id": transaction.signer_id,
            "public_key": public_key,
            "allowance": str(key.allowance_yocto),
            "cost": str(cost_of(transaction)),
        }
        return {"InvalidAccessKeyError": {"NotEnoughAllowance": short}}
    return None
