"""The virtual machine: runs transactions on Solana's own runtime code, in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping

from solders.account import Account
from solders.clock import Clock
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

from localnet.solana.accounts import StoredAccount
from localnet.solana.transactions import Execution

SYSTEM_PROGRAM = "11111111111111111111111111111111"
_NEVER_RENT = 2**64 - 1  # rent epoch of an account that is exempt


class Runtime:
    """The newest state, without slots, blockhashes or signatures: those are the chain's concern."""

    def __init__(self) -> None:
        self._svm = LiteSVM().with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)

    def load_program(self, address: str, shared_object: bytes) -> None:
        """Deploy a program; raises ValueError if the loader refuses it."""
        self._svm.add_program(Pubkey.from_string(address), shared_object)

    def account(self, address: str) -> StoredAccount | None:
        """The account as it is now; None if it does not exist."""
        return StoredAccount.of(self._svm.get_account(Pubkey.from_string(address)))

    def set_account(self, address: str, account: StoredAccount | None) -> None:
        """Put an account in place, without a transaction; None removes it."""
        stored = account or StoredAccount(0, SYSTEM_PROGRAM, b"")
        owner = Pubkey.from_string(stored.owner)
        raw = Account(stored.lamports, stored.content, owner, stored.executable, _NEVER_RENT)
        self._svm.set_account(Pubkey.from_string(address), raw)

    def rent_exempt_lamports(self, account_bytes: int) -> int:
        """What an account of that size must hold to stay."""
        return self._svm.minimum_balance_for_rent_exemption(account_bytes)

    def set_time(self, slot: int, unix_seconds: int) -> None:
        """What programs read from the clock."""
        now = self._svm.get_clock()
        self._svm.set_clock(
            Clock(
                slot=slot,
                epoch_start_timestamp=now.epoch_start_timestamp,
                epoch=now.epoch,
                leader_schedule_epoch=now.leader_schedule_epoch,
                unix_timestamp=unix_seconds,
            )
        )

    def execute(self, transaction: VersionedTransaction) -> Execution:
        """Run a transaction and keep what it did."""
        return _execution(self._svm.send_transaction(transaction))

    def simulate(
        self, transaction: VersionedTransaction, instead: Mapping[str, StoredAccount | None]
    ) -> tuple[Execution, dict[str, StoredAccount | None]]:
        """Run a transaction and keep nothing.

        Arguments: `instead` are accounts that the run sees in another state than the newest.
        Returns the execution and, if it succeeded, the accounts as they would be afterwards.
        """
        newest = {address: self.account(address) for address in instead}
        try:
            for address, account in instead.items():
                self.set_account(address, account)
            outcome = self._svm.simulate_transaction(transaction)
        finally:
            for address, account in newest.items():
                self.set_account(address, account)
        if isinstance(outcome, FailedTransactionMetadata):
            return _execution(outcome), {}
        after = {str(address): StoredAccount.of(account) for address, account in outcome.post_accounts()}
        return _execution(outcome.meta()), after


def _execution(outcome: TransactionMetadata | FailedTransactionMetadata) -> Execution:
    failed = isinstance(outcome, FailedTransactionMetadata)
    meta = outcome.meta() if isinstance(outcome, FailedTransactionMetadata) else outcome
    returned = meta.return_data()
    returned_bytes = bytes(returned.data)
    return Execution(
        error=json.loads(outcome.to_json())["err"] if failed else None,
        logs=meta.logs(),
        compute_units=meta.compute_units_consumed(),
        fee_lamports=meta.fee(),
        return_data=(str(returned.program_id), returned_bytes) if returned_bytes else None,
    )
