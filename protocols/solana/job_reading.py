"""From an account as the RPC answers it to a job."""

from __future__ import annotations

from solders.pubkey import Pubkey

from millrace.errors import Permanent
from protocols.solana import queries
from protocols.solana.answers import Account
from protocols.solana.job_account import InvalidAccount, JobAccount, decode_job_account
from protocols.solana.rpc import SolanaRpc


class NoSuchJob(Permanent):
    """There is no account at that address."""


def read_job_account(address: Pubkey, account: Account, program_id: Pubkey) -> JobAccount:
    """The job in an account that the RPC answered. Raises InvalidAccount with the reason if it holds none."""
    try:
        content, owner_program = account.content(), account.program()
    except ValueError as error:
        raise InvalidAccount(f"{address} cannot be read: {error}") from None
    return decode_job_account(address, owner_program, content, program_id)


async def fetch_job_account(
    rpc: SolanaRpc,
    address: Pubkey,
    program_id: Pubkey,
    commitment: queries.Commitment,
    *,
    min_context_slot: int | None = None,
) -> JobAccount:
    """The job at `address`, read now.

    Raises NoSuchJob if there is no account there, InvalidAccount if it holds no job, Transient if the chain cannot
    be asked or no node has reached `min_context_slot`.
    """
    account = await queries.account(rpc, address, commitment, min_context_slot=min_context_slot)
    if account is None:
        raise NoSuchJob(f"there is no account at {address}", hint="is the RPC endpoint on the right cluster?")
    return read_job_account(address, account, program_id)
