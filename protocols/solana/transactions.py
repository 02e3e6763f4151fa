"""From an instruction to signed bytes, and from signed bytes to their fate."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.transaction import VersionedTransaction

from millrace.errors import Permanent, Transient
from millrace.network import Fate, Outcome
from protocols.solana import queries
from protocols.solana.fees import MOST_COMPUTE_UNITS, PriorityFeePolicy, compute_unit_limit, priority_fee_lamports
from protocols.solana.program_errors import Refusal, explain
from protocols.solana.rpc import SolanaRpc

_SIMULATED_PRICE = 1
"""Any price: it is there so that the simulated transaction has the real one's instructions."""


class SimulationFailed(Permanent):
    """The transaction would fail, so it was not signed; `refusal` says what that means."""

    def __init__(self, message: str, *, refusal: Refusal, **where: str) -> None:
        super().__init__(message, **where)
        self.refusal = refusal


@dataclass(frozen=True)
class SignedTransaction:
    """Signed bytes and what must be known to follow them."""

    signature: str
    payload: str
    """The signed bytes, base64."""
    last_valid_block_height: int
    context_slot: int
    """The slot of the blockhash; a node that has not reached it cannot judge the transaction."""
    priority_fee_lamports: int


async def sign_transaction(
    rpc: SolanaRpc, payer: Keypair, instruction: Instruction, fees: PriorityFeePolicy
) -> SignedTransaction:
    """Sign a transaction of `instruction` that fits the chain as it is now; sends nothing.

    The compute unit limit comes from a simulation, the priority fee from what transactions on the same writable
    accounts paid lately.

    Raises SimulationFailed if it would fail; Transient if the chain cannot be asked now.
    """
    newest = await queries.latest_blockhash(rpc)
    blockhash = Hash.from_string(newest.value.blockhash)
    slot = newest.context.slot
    draft = _transaction(payer, _with_budget(instruction, MOST_COMPUTE_UNITS, _SIMULATED_PRICE), blockhash)
    units = compute_unit_limit(await _units_consumed(rpc, draft, slot))
    writable = [account.pubkey for account in instruction.accounts if account.is_writable]
    price = fees.price(await queries.recent_priority_fees(rpc, writable))
    signed = _transaction(payer, _with_budget(instruction, units, price), blockhash)
    return SignedTransaction(
        signature=str(signed.signatures[0]),
        payload=base64.b64encode(bytes(signed)).decode(),
        last_valid_block_height=newest.value.last_valid_block_height,
        context_slot=slot,
        priority_fee_lamports=priority_fee_lamports(price, units),
    )


async def _units_consumed(rpc: SolanaRpc, draft: VersionedTransaction, slot: int) -> int:
    simulation = await queries.simulate(rpc, draft, slot)
    if simulation.err is None:
        if simulation.units_consumed is None:
            raise Transient("the node simulated the transaction but does not say what it consumed")
        return simulation.units_consumed
    words, refusal = explain(simulation.err)
    if refusal is Refusal.stale:
        raise Transient(f"the node lags: {words}")
    raise SimulationFailed(f"the transaction would fail: {words}", refusal=refusal)


def _with_budget(instruction: Instruction, units: int, price: int) -> list[Instruction]:
    return [set_compute_unit_limit(units), set_compute_unit_price(price), instruction]


def _transaction(payer: Keypair, instructions: Sequence[Instruction], blockhash: Hash) -> VersionedTransaction:
    message = Message.new_with_blockhash(instructions, payer.pubkey(), blockhash)
    return VersionedTransaction(message, [payer])


async def transaction_outcome(rpc: SolanaRpc, signature: str, last_valid_block_height: int) -> Outcome:
    """What the chain says about a transaction, at `confirmed` or firmer.

    Expired is said only if a block height at `confirmed` is past the last valid one, and a node that has seen the
    slot of that height knows nothing of the signature afterwards. A node that lags behind proves nothing.
    """
    status = await queries.signature_status(rpc, signature)
    if status.value is None:
        head = await queries.epoch_info(rpc, "confirmed")
        if head.block_height <= last_valid_block_height:
            return Outcome(fate=Fate.unknown)
        status = await queries.signature_status(rpc, signature)
        if status.value is None:
            proven = status.context.slot >= head.absolute_slot
            return Outcome(fate=Fate.expired, final=True) if proven else Outcome(fate=Fate.unknown)
    found = status.value
    if found.confirmation_status not in ("confirmed", "finalized"):
        return Outcome(fate=Fate.unknown, height=found.slot)
    final = found.confirmation_status == "finalized"
    if found.err is None:
        return Outcome(fate=Fate.landed, final=final, height=found.slot)
    words, _ = explain(found.err)
    return Outcome(fate=Fate.failed, final=final, height=found.slot, reason=words)
