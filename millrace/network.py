"""The small interface that `watch`, `submit` and `reconcile` speak; one implementation a chain."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from millrace.job import Job
from millrace.receipt import Inclusion

J = TypeVar("J", bound=Job)


class Fate(StrEnum):
    """What became of a submission, as the chain tells it."""

    landed = "landed"  # in a block and succeeded
    failed = "failed"  # in a block, or refused for good, and it did not do what it should
    expired = "expired"  # can never land any more: only now may a new one be signed
    unknown = "unknown"  # neither landed nor expired: keep asking


class Outcome(BaseModel):
    """The chain's answer about one submission."""

    model_config = ConfigDict(frozen=True)

    fate: Fate
    final: bool = Field(default=False, description="True once the chain can no longer take it back")
    height: int | None = Field(default=None, description="Slot or block it is in")
    fee: int | None = Field(default=None, description="Fee paid, in the chain's smallest unit")
    reason: str = Field(default="", description="Why it failed, in words")


class SignedSubmission(BaseModel):
    """Signed bytes, complete and unsent. Persisted before the first send; the only thing ever sent."""

    model_config = ConfigDict(frozen=True)

    job_key: str
    network: str
    transaction_id: str = Field(description="The chain's name for the transaction, known before sending")
    payload: str = Field(description="The signed bytes, base64")
    expires_at: int | None = Field(default=None, description="Last block height at which it can land; None: any")
    generation: int = Field(default=0, description="0 for the first signature; +1 after each proven expiry")
    sender: str = Field(description="The signer's address")
    result_cid: str
    price: int = Field(description="Price claimed for the job, smallest unit")
    priority_fee: int = Field(default=0, description="Highest fee above the base fee it can cost, smallest unit")
    lane: str = Field(default="", description="The lane it was signed in, see `Network.lane`")
    nonce: int | None = Field(default=None, description="Its place in the lane")
    signed_at: int | None = Field(default=None, description="Height of the chain when it was signed")
    result_hash: str = Field(default="", description="The result itself, where the chain records one")


class Result(BaseModel):
    """What a job came to, ready to be submitted."""

    model_config = ConfigDict(frozen=True)

    result_cid: str
    evidence_cid: str = ""
    result_hash: str = Field(default="", description="The result itself, where the chain records one")
    proof: str = Field(default="", description="What a verifier needs beside it, where the chain has a field for it")
    code_bytes: int = Field(default=0, description="Size of the program, for cost policies")
    result_bytes: int = Field(default=0, description="Size of the result document, for cost policies")
    wall_seconds: float = Field(default=0.0, description="Time the program ran, for cost policies")


class Settlement(BaseModel):
    """The chain's own view of a job after our submission, read at its firmest commitment."""

    model_config = ConfigDict(frozen=True)

    ours: bool = Field(description="True if the chain records our result and price")
    state: str = Field(description="The chain's word for the job's state")
    result_cid: str = ""
    price: int | None = Field(default=None, description="What the job costs its owner; None where nobody pays")
    transaction_id: str = ""
    height: int | None = None
    fee: int | None = Field(default=None, description="Fee we paid, smallest unit; None if unknown")
    by_others: bool = Field(default=True, description="If it is not ours: whether somebody else ended the job")
    inclusion: Inclusion | None = Field(default=None, description="Proof that our result is in its block")


class Network(Protocol[J]):
    """One chain's jobs.

    Every method raises Transient when the chain cannot be asked right now, and Permanent when it
    answers something that cannot be.
    """

    name: str

    @property
    def address(self) -> str:
        """The worker's own address on this chain: it signs and pays."""
        ...

    @property
    def lane(self) -> str:
        """Where signatures depend on each other (a nonce chain), what they have in common; else empty.

        Of one lane, one submission at a time is signed and recorded, on the whole machine.
        """
        ...

    async def pending(self) -> Sequence[J]:
        """The jobs that wait for somebody, oldest first."""
        ...

    def begun(self, jobs: Sequence[J]) -> None:
        """Take note that these have a flow run now; for a network whose jobs go by, so that it can tell what it missed.

        It may be told so again and again.
        """
        ...

    async def wait_for_news(self, seconds: float) -> None:
        """Return after `seconds`, or sooner if the chain hints that there is something new since `pending`.

        A hint may be late, missing or wrong: it is a reason to look and nothing else. Raises nothing.
        """
        ...

    async def find(self, job_id: str) -> J:
        """The job with that id, whatever its state; Permanent if there is none."""
        ...

    def allowed(self, job: J) -> None:
        """Return if the operator's own rules let us do this job; Declined(not_allowed) with the rule if not."""
        ...

    async def still_open(self, job: J) -> bool:
        """Whether the chain still wants this job done, read now."""
        ...

    async def affordable(self) -> None:
        """Return if the balance covers one more submission; Declined(too_poor) with both numbers if not."""
        ...

    async def prepare(
        self, job: J, result: Result, generation: int, unsettled: Sequence[SignedSubmission] = ()
    ) -> SignedSubmission:
        """Sign the submission of `result`; sends nothing. Declined(closed) if the job is no longer open.

        `unsettled` are those of our submissions in the same lane that may have yet to land: the chain need not know
        them.
        """
        ...

    async def send(self, submission: SignedSubmission) -> None:
        """Broadcast the same signed bytes (again). UnknownOutcome if it cannot be told whether they went out."""
        ...

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        """Ask the chain what became of a submission. Never guesses: `unknown` is an answer."""
        ...

    async def settlement(self, job: J, submission: SignedSubmission) -> Settlement:
        """Re-read the job at the firmest commitment and compare it with what we submitted."""
        ...

    async def balance(self) -> int:
        """The worker's balance, smallest unit."""
        ...

    async def head(self) -> int:
        """The height of the newest block we trust."""
        ...
