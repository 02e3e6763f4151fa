"""RPC methods that read accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.solana.chain import Chain
from localnet.solana.filters import parse_filters
from localnet.solana.request import View, list_of, view_of
from localnet.solana.wire import account_json, address_of

MOST_ACCOUNTS = 100


class AccountMethods:
    """Accounts, as each commitment level sees them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Every method by its name on the wire."""
        return {
            "getBalance": self.balance,
            "getAccountInfo": self.account_info,
            "getMultipleAccounts": self.multiple_accounts,
            "getProgramAccounts": self.program_accounts,
        }

    def balance(self, address: Any, config: Any = None) -> dict[str, Any]:
        """An account's lamports; 0 if it does not exist."""
        view = view_of(self._chain, config)
        account = self._chain.account_at(address_of(address), view.slot)
        return view.with_context(account.lamports if account else 0)

    def account_info(self, address: Any, config: Any = None) -> dict[str, Any]:
        """One account; null if it does not exist."""
        view = view_of(self._chain, config)
        return view.with_context(self._account(address, view))

    def multiple_accounts(self, addresses: Any, config: Any = None) -> dict[str, Any]:
        """Up to 100 accounts, all as of one slot."""
        view = view_of(self._chain, config)
        wanted = list_of(addresses, MOST_ACCOUNTS)
        return view.with_context([self._account(address, view) for address in wanted])

    def program_accounts(self, program: Any, config: Any = None) -> Any:
        """Every account of a program that passes the filters."""
        view = view_of(self._chain, config)
        matches = parse_filters(view.config.get("filters"))
        found = [
            {"pubkey": address, "account": account_json(account, view.config)}
            for address, account in self._chain.accounts.owned_by(address_of(program), view.slot)
            if matches(account)
        ]
        return view.with_context(found) if view.config.get("withContext") else found

    def _account(self, address: Any, view: View) -> dict[str, Any] | None:
        account = self._chain.account_at(address_of(address), view.slot)
        return None if account is None else account_json(account, view.config)
