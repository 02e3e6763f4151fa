"""Discover CloudMesh jobs: one listing without content, then only the accounts that may still be open.

A job account is never closed and completed or cancelled ones never change again, so the chain's listing grows for
ever while the work does not. Each look costs one listing (one for each owner served) and one read for every hundred
accounts that are not known to have ended.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from solders.pubkey import Pubkey

from protocols.solana import queries
from protocols.solana.answers import Account
from protocols.solana.job import CloudMeshJob
from protocols.solana.job_account import (
    ACCOUNT_BYTES,
    DISCRIMINATOR_BASE58,
    OWNER_OFFSET,
    InvalidAccount,
    JobAccount,
    JobStatus,
)
from protocols.solana.job_reading import read_job_account
from protocols.solana.rpc import SolanaRpc
from stages.discover.known_keys import KnownKeys

MOST_BATCHES = 100
"""Most reads of a backlog in one look; a longer one takes several."""

BACKLOG_ACCOUNTS = 2 * queries.MOST_ACCOUNTS
"""More accounts than this, never read before, are a backlog: most of them ended long ago."""

FINALITY_SECONDS = 20.0
"""How long after seeing the end of a job at `confirmed` to look whether it is final; 32 slots take about 13 s."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Reading:
    """What an account turned out to be; no job at all if `job` is None."""

    address: Pubkey
    job: JobAccount | None

    @property
    def ended(self) -> bool:
        """Whether the account will never hold a pending job (again)."""
        return self.job is None or self.job.status is not JobStatus.pending


class CloudMeshDiscovery:
    """The pending jobs of one program on one chain.

    Arguments: `owners` restricts to these owners' jobs, everybody's when empty; `folder` keeps what is known to have
    ended; `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        rpc: SolanaRpc,
        program_id: Pubkey,
        genesis_hash: str,
        folder: Path,
        *,
        owners: Sequence[Pubkey] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._program_id = program_id
        self._genesis_hash = genesis_hash
        self._owners = tuple(owners)
        self._clock = clock
        chain_and_program = hashlib.sha256(f"{genesis_hash}/{program_id}".encode()).hexdigest()[:16]
        self._ended = KnownKeys(folder / f"cloudmesh-{chain_and_program}.keys")
        self._ending: dict[Pubkey, float] = {}
        """Seen ended at `confirmed`, and since when; remembered for good once that is final."""
        self._open: set[Pubkey] = set()
        self._reported: set[Pubkey] = set()

    def serves(self, owner: Pubkey) -> bool:
        """Whether the allow-list, if there is one, names this owner."""
        return not self._owners or owner in self._owners

    async def pending(self) -> list[CloudMeshJob]:
        """The jobs that wait for somebody at `confirmed`, oldest first.

        An account that is not a job is reported once, with its address and the reason, and left alone.

        Raises Transient if the chain cannot be asked now.
        """
        listed = await self._listed()
        await self._finalize(listed)
        pending = []
        async for reading in self._read(await self._maybe_open(listed), "confirmed"):
            if reading.ended:
                self._ending[reading.address] = self._clock()
            elif reading.job is not None and self.serves(reading.job.owner):
                pending.append(reading.job)
        self._open = {job.address for job in pending}
        pending.sort(key=lambda job: (job.start_time, str(job.address)))
        return [self._as_job(account) for account in pending]

    async def _listed(self) -> set[Pubkey]:
        """The addresses of all job accounts, or of those of the owners we serve."""
        listed: set[Pubkey] = set()
        owned = [[(OWNER_OFFSET, str(owner))] for owner in self._owners] or [[]]
        for condition in owned:
            starts = [(0, DISCRIMINATOR_BASE58), *condition]
            listed.update(
                await queries.program_addresses(self._rpc, self._program_id, account_bytes=ACCOUNT_BYTES, starts=starts)
            )
        return listed

    async def _maybe_open(self, listed: set[Pubkey]) -> list[Pubkey]:
        """What may be open: what was at the last look, then what was never read, in an order of chance.

        Chance, because in a backlog longer than one look the same accounts would otherwise be read every time. A
        backlog is sifted at `finalized` first: what has ended there is remembered at once, even if we stop now.
        """
        unread = [key for key in listed if key not in self._ended and key not in self._ending]
        known, new = [k for k in unread if k in self._open], [k for k in unread if k not in self._open]
        secrets.SystemRandom().shuffle(new)
        new = new[: MOST_BATCHES * queries.MOST_ACCOUNTS]
        if len(new) > BACKLOG_ACCOUNTS:
            ended = await self._remember_ended(new)
            new = [key for key in new if key not in ended]
        return known + new

    async def _finalize(self, listed: set[Pubkey]) -> None:
        """Remember for good what ended long enough ago for `finalized` to know."""
        for gone in self._ending.keys() - listed:
            del self._ending[gone]
        due = [key for key, since in self._ending.items() if self._clock() - since >= FINALITY_SECONDS]
        await self._remember_ended(due)
        for address in due:
            del self._ending[address]  # what is not final yet is read again, as if new

    async def _remember_ended(self, addresses: Sequence[Pubkey]) -> set[Pubkey]:
        """Read the accounts at `finalized`; those that have ended there are remembered for good, and returned."""
        ended: set[Pubkey] = set()
        for batch in _batches(addresses):
            final = [reading.address async for reading in self._read(batch, "finalized") if reading.ended]
            self._ended.add(final)
            ended.update(final)
        return ended

    async def _read(self, addresses: Sequence[Pubkey], commitment: queries.Commitment) -> AsyncIterator[_Reading]:
        """Read the accounts, a hundred at a time; leaves out what does not exist at that commitment."""
        for batch in _batches(addresses):
            found = await queries.accounts(self._rpc, batch, commitment)
            for address, account in zip(batch, found, strict=True):
                if account is not None:
                    yield self._reading(address, account)

    def _reading(self, address: Pubkey, account: Account) -> _Reading:
        try:
            job = read_job_account(address, account, self._program_id)
        except InvalidAccount as error:
            if address not in self._reported:
                self._reported.add(address)
                _logger.warning("account ignored: %s", error.message)
            return _Reading(address, None)
        return _Reading(address, job)

    def _as_job(self, account: JobAccount) -> CloudMeshJob:
        program_id = str(self._program_id)
        return CloudMeshJob.from_account(account, genesis_hash=self._genesis_hash, program_id=program_id)


def _batches(keys: Sequence[Pubkey]) -> Iterator[list[Pubkey]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, queries.MOST_ACCOUNTS)):
        yield batch
