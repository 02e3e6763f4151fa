"""What happens when a receipt runs: contracts, transfers, yields; and what is put back when it fails."""

from __future__ import annotations

import base64
import copy
from dataclasses import dataclass, replace
from typing import Any

from localnet.near.accounts import Account, Accounts
from localnet.near.environment import ContractError, Environment, LocalContract, Promise
from localnet.near.receipts import CALL_GAS, GAS_PRICE_YOCTO, SYSTEM, Outcome, Receipt, call_failure, failure, hash_of
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS


@dataclass(frozen=True)
class Yield:
    """A callback that waits to be resumed, and the height at which it began to."""

    callback: Receipt
    height: int


class Runtime:
    """Accounts, contracts and yielded callbacks; not to be called from two threads at once."""

    def __init__(self) -> None:
        self.accounts: Accounts = {}
        self.contracts: dict[str, LocalContract] = {}
        self.yields: dict[str, Yield] = {}
        self.resumes_to_refuse = 0

    def run(self, receipt: Receipt, height: int, timestamp_ns: int) -> tuple[Outcome, list[Receipt]]:
        """Carry out a receipt in the block at `height`; returns what became of it and the receipts it makes."""
        if not receipt.calls:
            return self._transfer(receipt, height), []
        contract = self.contracts.get(receipt.receiver_id)
        if contract is None:
            kind = "CodeDoesNotExist" if receipt.receiver_id in self.accounts else "AccountDoesNotExist"
            error = {kind: {"account_id": receipt.receiver_id}}
            refused = failure({"FunctionCallError": {"CompilationError": error}} if kind[0] == "C" else error)
            return Outcome(receipt.receipt_id, height, receipt.receiver_id, refused, receipt=receipt), _refund(receipt)
        return self._call(receipt, contract, height, timestamp_ns)

    def timed_out(self, height: int) -> list[Receipt]:
        """The callbacks that have waited for too long at `height`, which run now and are told so."""
        late = [each for each, waiting in self.yields.items() if waiting.height + YIELD_TIMEOUT_BLOCKS <= height]
        return [self.yields.pop(data_id).callback for data_id in late]

    def _transfer(self, receipt: Receipt, height: int) -> Outcome:
        account = self.accounts.get(receipt.receiver_id)
        if account is None:
            status = failure({"AccountDoesNotExist": {"account_id": receipt.receiver_id}})
        else:
            account.balance_yocto += receipt.transfer_yocto
            status = {"SuccessValue": ""}
        return Outcome(receipt.receipt_id, height, receipt.receiver_id, status, gas_burnt=0, receipt=receipt)

    def _call(
        self, receipt: Receipt, contract: LocalContract, height: int, timestamp_ns: int
    ) -> tuple[Outcome, list[Receipt]]:
        state, yields = copy.deepcopy(contract.state), dict(self.yields)
        resumed: list[Receipt] = []

        def resume(data_id: str, payload: bytes) -> bool:
            waiting = self.yields.get(data_id)
            # In the block of the yield itself, the chain does not find it yet.
            if waiting is None or waiting.height >= height or self._refuses():
                return False
            resumed.append(replace(self.yields.pop(data_id).callback, result=payload))
            return True

        env = Environment(receipt.receiver_id, receipt, height, timestamp_ns, 0, resume)
        value: bytes | Promise = b""
        try:
            for call in receipt.calls:
                env.deposit_yocto = call.deposit_yocto
                value = contract.call(call.method, call.args, env)
        except ContractError as error:
            contract.state, self.yields = state, yields
            outcome = self._outcome(env, call_failure(str(error)), ())
            return outcome, _refund(receipt)
        sent = sum(each.transfer_yocto + sum(call.deposit_yocto for call in each.calls) for each in env.outgoing)
        owner = self.accounts.setdefault(receipt.receiver_id, Account())
        owner.balance_yocto += sum(call.deposit_yocto for call in receipt.calls) - sent
        for callback in env.yielded:
            self.yields[callback.data_id] = Yield(callback, height)
        done = (
            {"SuccessReceiptId": value.receipt_id}
            if isinstance(value, Promise)
            else {"SuccessValue": base64.b64encode(value).decode()}
        )
        outcome = self._outcome(env, done, (*env.outgoing, *env.yielded), changed=contract.state != state)
        return outcome, [*env.outgoing, *resumed]

    def _refuses(self) -> bool:
        if self.resumes_to_refuse <= 0:
            return False
        self.resumes_to_refuse -= 1
        return True

    def _outcome(
        self, env: Environment, status: dict[str, Any], made: tuple[Receipt, ...], *, changed: bool = False
    ) -> Outcome:
        """The outcome of a call, for whose gas the signer pays."""
        signer = self.accounts.get(env.signer_id)
        if signer is not None:
            signer.balance_yocto = max(signer.balance_yocto - CALL_GAS * GAS_PRICE_YOCTO, 0)
        return Outcome(
            env.receipt.receipt_id,
            env.height,
            env.contract_id,
            status,
            logs=tuple(env.logs),
            receipt_ids=tuple(each.receipt_id for each in made),
            receipt=env.receipt,
            changed_data=changed,
        )


def _refund(receipt: Receipt) -> list[Receipt]:
    """What a failed receipt's deposits come back with."""
    deposits = sum(call.deposit_yocto for call in receipt.calls)
    if not deposits:
        return []
    back = Receipt(
        receipt_id=hash_of("refund", receipt.receipt_id),
        predecessor_id=SYSTEM,
        receiver_id=receipt.predecessor_id,
        signer_id=receipt.signer_id,
        signer_public_key=receipt.signer_public_key,
        transaction_hash=receipt.transaction_hash,
        transfer_yocto=deposits,
    )
    return [back]
