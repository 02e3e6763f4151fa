"""The questions we ask Solana, each with its commitment said: solana-py's own default is `finalized`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.models import DataSliceOpts, MemcmpOpts
from solders.pubkey import Pubkey
from solders.rpc.responses import GetProgramAccountsResp
from solders.transaction import VersionedTransaction

from millrace.errors import Transient
from protocols.solana.answers import (
    U64,
    Account,
    AtSlot,
    ConfirmedTransaction,
    EpochInfo,
    LatestBlockhash,
    PriorityFee,
    SignatureStatus,
    Simulation,
)
from protocols.solana.rpc import SolanaRpc

Commitment = Literal["confirmed", "finalized"]
"""`processed` is missing on purpose: what is only processed may still vanish."""

MOST_ACCOUNTS = 100
"""Most accounts in one getMultipleAccounts."""

_LISTING_TIMEOUT_SECONDS = 60.0

_ACCOUNT: TypeAdapter[AtSlot[Account | None]] = TypeAdapter(AtSlot[Account | None])
_ACCOUNTS: TypeAdapter[AtSlot[list[Account | None]]] = TypeAdapter(AtSlot[list[Account | None]])
_BLOCKHASH: TypeAdapter[AtSlot[LatestBlockhash]] = TypeAdapter(AtSlot[LatestBlockhash])
_SIMULATION: TypeAdapter[AtSlot[Simulation]] = TypeAdapter(AtSlot[Simulation])
_PRIORITY_FEES: TypeAdapter[list[PriorityFee]] = TypeAdapter(list[PriorityFee])
_STATUS: TypeAdapter[AtSlot[tuple[SignatureStatus | None]]] = TypeAdapter(AtSlot[tuple[SignatureStatus | None]])
_EPOCH: TypeAdapter[EpochInfo] = TypeAdapter(EpochInfo)
_TRANSACTION: TypeAdapter[ConfirmedTransaction | None] = TypeAdapter(ConfirmedTransaction | None)
_LAMPORTS_AT_SLOT: TypeAdapter[AtSlot[int]] = TypeAdapter(AtSlot[U64])
_NUMBER: TypeAdapter[int] = TypeAdapter(U64)


async def account(
    rpc: SolanaRpc, address: Pubkey, commitment: Commitment, *, min_context_slot: int | None = None
) -> Account | None:
    """The account at `address`; None if there is none. Transient while no node has reached `min_context_slot`."""
    config: dict[str, Any] = {"encoding": "base64", "commitment": commitment}
    if min_context_slot is not None:
        config["minContextSlot"] = min_context_slot
    return (await rpc.read("getAccountInfo", [str(address), config], _ACCOUNT)).value


async def accounts(rpc: SolanaRpc, addresses: Sequence[Pubkey], commitment: Commitment) -> list[Account | None]:
    """The accounts at up to 100 addresses, in their order; None where there is none."""
    config = {"encoding": "base64", "commitment": commitment}
    found = (await rpc.read("getMultipleAccounts", [[str(key) for key in addresses], config], _ACCOUNTS)).value
    if len(found) != len(addresses):
        raise Transient(f"asked for {len(addresses)} accounts, got {len(found)}", hint="look at the RPC endpoints")
    return found


async def program_addresses(
    rpc: SolanaRpc, program_id: Pubkey, *, account_bytes: int, starts: Sequence[tuple[int, str]]
) -> list[Pubkey]:
    """The addresses, without content, of the program's accounts of that size at `confirmed`.

    `starts` says which bytes, in base58, they must have at which offset; with the size, a node takes at most four
    conditions.
    """
    filters: list[int | MemcmpOpts] = [account_bytes]
    filters += [MemcmpOpts(offset=offset, bytes=wanted) for offset, wanted in starts]

    async def question(client: AsyncClient) -> list[Pubkey]:
        nothing = DataSliceOpts(offset=0, length=0)
        listed = await client.get_program_accounts(program_id, Confirmed, "base64", nothing, filters)
        if not isinstance(listed, GetProgramAccountsResp):
            raise RPCException(listed)
        return [line.pubkey for line in listed.value]

    return await rpc.read_large("getProgramAccounts", question, _LISTING_TIMEOUT_SECONDS)


async def latest_blockhash(rpc: SolanaRpc) -> AtSlot[LatestBlockhash]:
    """The newest blockhash at `confirmed`, its last valid block height, and the slot of both."""
    return await rpc.read("getLatestBlockhash", [{"commitment": "confirmed"}], _BLOCKHASH)


async def simulate(rpc: SolanaRpc, transaction: VersionedTransaction, min_context_slot: int) -> Simulation:
    """What `transaction` would do at `confirmed`, its signatures unlooked at."""
    config = {
        "encoding": "base64",
        "commitment": "confirmed",
        "sigVerify": False,
        "minContextSlot": min_context_slot,
    }
    payload = base64.b64encode(bytes(transaction)).decode()
    return (await rpc.read("simulateTransaction", [payload, config], _SIMULATION)).value


async def recent_priority_fees(rpc: SolanaRpc, writable: Sequence[Pubkey]) -> list[int]:
    """What recent blocks took, in micro-lamports per compute unit, from transactions that lock these accounts."""
    fees = await rpc.read("getRecentPrioritizationFees", [[str(key) for key in writable]], _PRIORITY_FEES)
    return [fee.prioritization_fee for fee in fees]


async def signature_status(rpc: SolanaRpc, signature: str) -> AtSlot[SignatureStatus | None]:
    """Where the transaction is, in all of history; None if the node that answered has never seen it."""
    answer = await rpc.read("getSignatureStatuses", [[signature], {"searchTransactionHistory": True}], _STATUS)
    return AtSlot[SignatureStatus | None](context=answer.context, value=answer.value[0])


async def epoch_info(rpc: SolanaRpc, commitment: Commitment) -> EpochInfo:
    """The head of the chain, its slot and its block height taken together."""
    return await rpc.read("getEpochInfo", [{"commitment": commitment}], _EPOCH)


async def transaction_fee(rpc: SolanaRpc, signature: str) -> int | None:
    """What the transaction cost in all, in lamports; None if the node does not have it."""
    config = {"encoding": "base64", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    found = await rpc.read("getTransaction", [signature, config], _TRANSACTION)
    return found.meta.fee if found is not None and found.meta is not None else None


async def balance(rpc: SolanaRpc, address: Pubkey) -> int:
    """The balance of `address` at `confirmed`, in lamports."""
    return (await rpc.read("getBalance", [str(address), {"commitment": "confirmed"}], _LAMPORTS_AT_SLOT)).value


async def rent_exempt_reserve(rpc: SolanaRpc, account_bytes: int) -> int:
    """The least that an account of that size must hold, in lamports."""
    return await rpc.read("getMinimumBalanceForRentExemption", [account_bytes], _NUMBER)


async def block_height(rpc: SolanaRpc) -> int:
    """The number of blocks up to the newest one that is `confirmed`."""
    return await rpc.read("getBlockHeight", [{"commitment": "confirmed"}], _NUMBER)
