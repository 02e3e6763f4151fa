"""A flow run that stops wherever something may happen, so that a model decides who goes on, who dies, and when.

An actor is one process: its own network client, its own outbox object on the machine's folder. It runs the submitting
half of a job's flow and stops at points: before each question to the chain and after each step of the submission. What
cannot be awaited (a write to the disk) is no point to stop at, but one to die at.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from millrace.errors import Declined, DeclineReason, MillraceError, Transient
from millrace.job import Job
from millrace.network import Fate, Network, Result, SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from millrace.retry import is_retriable
from stages.submit.confirm import confirm_submission
from stages.submit.follow import Pace
from stages.submit.generation import first_generation
from stages.submit.outbox import Outbox
from stages.submit.record import settle_and_record
from stages.submit.settle import SubmissionFailed
from stages.submit.sign import sign_submission

T = TypeVar("T")

SIGNATURES = 5
TRIES = 3
_LOCK_SECONDS = 0.03
_LOST_SECONDS = 15.0

_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class Machine:
    """What a computer keeps on its disk; every process of it is an actor."""

    name: str
    folder: Path
    kept: dict[tuple[str, str, int], SignedSubmission] = field(default_factory=dict)
    """What the flow keeps of its stage `sign`, by job, result and generation."""

    def outbox(self) -> Outbox:
        """The outbox as a process finds it that has just begun."""
        return Outbox(self.folder / "outbox")

    def receipts(self) -> ReceiptLog:
        """The machine's receipts."""
        return ReceiptLog(self.folder / "receipts")


@contextmanager
def stopping_before(kind: type[Any], *methods: str) -> Iterator[None]:
    """Let every actor stop before it calls one of these methods of `kind`, an RPC client.

    Of equal calls in a row only the first is a stop: a search asks for block after block.
    """
    before = {name: getattr(kind, name) for name in methods}

    def stopping(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def stop_and_call(*args: Any, **fields: Any) -> Any:
            actor = _current.get()
            # A client's one method for all that is read is told what by its first argument.
            what = args[1] if len(args) > 2 and isinstance(args[1], str) and name == "read" else name
            if actor is not None and actor.is_running_this and actor.at != f"before rpc {what}":
                await actor.stop(f"before rpc {what}")
            return await call(*args, **fields)

        return stop_and_call

    for name, call in before.items():
        setattr(kind, name, stopping(name, call))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(kind, name, call)


class StoppingOutbox(Outbox):
    """The outbox of a process that may die around each write, and stops when it waits for a lock."""

    actor: Actor

    @asynccontextmanager
    async def lock(self, job_key: str) -> AsyncIterator[None]:
        async with _taken(lambda: super(StoppingOutbox, self).lock(job_key), self.actor, "job's lock"):
            yield

    @asynccontextmanager
    async def lane_lock(self, lane: str) -> AsyncIterator[None]:
        async with _taken(lambda: super(StoppingOutbox, self).lane_lock(lane), self.actor, "lane's lock"):
            yield

    def record(self, submission: SignedSubmission) -> None:
        self.actor.pass_by("before outbox.record")
        super().record(submission)
        self.actor.pass_by("after outbox.record")

    def mark(self, submission: SignedSubmission, fate: Fate) -> None:
        self.actor.pass_by("before outbox.mark")
        super().mark(submission, fate)
        self.actor.pass_by("after outbox.mark")

    def settle(self, job_key: str) -> None:
        self.actor.pass_by("before outbox.settle")
        super().settle(job_key)
        self.actor.pass_by("after outbox.settle")


@asynccontextmanager
async def _taken(lock: Callable[[], AbstractAsyncContextManager[None]], actor: Actor, name: str) -> AsyncIterator[None]:
    """The lock, held; while another actor has it this one stops, and tries again when it goes on."""
    while True:
        context = lock()
        try:
            async with asyncio.timeout(_LOCK_SECONDS):
                await context.__aenter__()
        except TimeoutError:
            await actor.stop(f"without the {name}")
            continue
        break
    try:
        yield
        await actor.stop(f"with the {name}, done")
    finally:
        await context.__aexit__(None, None, None)


class StoppingNetwork:
    """A network whose every step of a submission is followed by a stop; `sending` is told what goes out."""

    def __init__(self, network: Network[Any], actor: Actor, sending: Callable[[SignedSubmission], None]) -> None:
        self._network = network
        self._actor = actor
        self._sending = sending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    async def prepare(self, *args: Any, **fields: Any) -> SignedSubmission:
        signed = await self._network.prepare(*args, **fields)
        await self._actor.stop("after prepare")
        return signed

    async def send(self, submission: SignedSubmission) -> None:
        self._sending(submission)
        await self._network.send(submission)
        await self._actor.stop("after send")

    async def outcome(self, submission: SignedSubmission) -> Any:
        outcome = await self._network.outcome(submission)
        await self._actor.stop("after outcome")
        return outcome

    async def settlement(self, job: Job, submission: SignedSubmission) -> Any:
        settlement = await self._network.settlement(job, submission)
        await self._actor.stop("after settlement")
        return settlement


@dataclass
class Flaw:
    """Where an actor does otherwise than Millrace: for the models' negative controls."""

    sign: Callable[..., Awaitable[SignedSubmission]] = sign_submission
    outbox: type[StoppingOutbox] = StoppingOutbox
    network: type[StoppingNetwork] = StoppingNetwork


class Actor:
    """One process at one job; `step` lets it go on to its next stop.

    Arguments: `open_network` opens the process's client; `sending` is told what it sends; `pass_time` is what its
    sleep does to the world. `at` is where it stopped; `ended` what became of it, empty while it lives.
    """

    def __init__(
        self,
        machine: Machine,
        job_id: str,
        result: Result,
        *,
        open_network: Callable[[], AbstractAsyncContextManager[Network[Any]]],
        sending: Callable[[Machine, SignedSubmission], None],
        clock: Callable[[], float],
        pass_time: Callable[[float], None],
        deadline_seconds: float,
        flaw: Flaw,
    ) -> None:
        self.machine = machine
        self.job_id = job_id
        self.at = ""
        self.ended = ""
        self.dies_at = ""
        self._result = result
        self._open_network = open_network
        self._sending = sending
        self._pass_time = pass_time
        self._pace = Pace(deadline_seconds=deadline_seconds, clock=clock, sleep=self._sleep)
        self._flaw = flaw
        self._go = asyncio.Event()
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._killed = False

    @property
    def is_running_this(self) -> bool:
        """Whether it is the actor's own task that runs, not one that its client started."""
        return asyncio.current_task() is self._task

    # ---- the model's side ----

    async def step(self) -> None:
        """Go on to the next stop, or to the end. Raises what Millrace should not have raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._live())
        else:
            self._go.set()
        stopped = asyncio.create_task(self._stopped.wait())
        done, _ = await asyncio.wait({self._task, stopped}, timeout=_LOST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        assert done, f"after {self.at!r} it neither stopped nor ended"
        self._stopped.clear()
        if self._task.done():
            self._task.result()

    async def kill(self) -> None:
        """End it where it stopped, if it has not ended itself."""
        self._killed = True
        if self._task is None:
            self.ended = "killed"
        while not self.ended and not (self._task and self._task.done()):
            await self.step()

    async def stop(self, point: str) -> None:
        """Called by the actor itself: stop here until it may go on."""
        self.pass_by(point)
        self.at = point
        self._stopped.set()
        await self._go.wait()
        self._go.clear()
        if self._killed:
            raise Killed

    def pass_by(self, point: str) -> None:
        """Called by the actor itself: die here if this is where it is to die."""
        if self._killed or self.dies_at == point:
            self._killed = True
            raise Killed

    # ---- the process ----

    async def _live(self) -> None:
        _current.set(self)
        try:
            async with self._open_network() as network:
                await self._work(network)
            self.ended = "done"
        except Killed:
            self.ended = "killed"
        except MillraceError as error:
            reason = f"({error.reason})" if isinstance(error, Declined) else ""
            self.ended = f"{type(error).__name__}{reason}: {error}"
            if not _is_to_be_expected(error):
                raise

    async def _work(self, opened: Network[Any]) -> None:
        """What the flow does from `sign` on, with the same stages in the same order."""
        network = self._flaw.network(opened, self, functools.partial(self._sending, self.machine))
        outbox = self._flaw.outbox(self.machine.folder / "outbox")
        outbox.actor = self
        tools: dict[str, Any] = {"network": network, "outbox": outbox}
        job = await self._tried(lambda: network.find(self.job_id))
        first = await first_generation(job, **tools)
        for generation in range(first, first + SIGNATURES):
            submission = await self._sign(job, generation, tools)
            outcome = await self._tried(
                lambda: confirm_submission(job, submission, pace=self._pace, **tools)  # noqa: B023
            )
            await self.stop("confirmed")
            if outcome.fate is not Fate.expired:
                break
        else:
            raise Transient("every signature expired")
        await self._tried(
            lambda: settle_and_record(
                job,
                submission,
                _draft(job, self._result),
                receipts=self.machine.receipts(),
                clock=lambda: 0.0,
                pace=self._pace,
                **tools,
            )
        )

    async def _sign(self, job: Job, generation: int, tools: dict[str, Any]) -> SignedSubmission:
        key = job.key, self._result.result_cid, generation
        if key not in self.machine.kept:
            signed = await self._tried(lambda: self._flaw.sign(job, self._result, generation, **tools))
            await self.stop("signed, and the flow has not kept it")
            self.machine.kept[key] = signed
        return self.machine.kept[key]

    async def _tried(self, stage: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES - 1):
            try:
                return await stage()
            except MillraceError as error:
                if not is_retriable(error):
                    raise
            await self.stop("before another try")
            self._pass_time(2.0)
        return await stage()

    async def _sleep(self, seconds: float) -> None:
        await self.stop("asleep")
        self._pass_time(seconds)


def _is_to_be_expected(error: MillraceError) -> bool:
    """Whether a flow run may end with it: with anything else a job would wait for a person."""
    declined = isinstance(error, Declined) and (error.reason is DeclineReason.closed or error.reason.temporary)
    return declined or isinstance(error, SubmissionFailed) or is_retriable(error)


def _draft(job: Job, result: Result) -> Receipt:
    return Receipt(
        job_key=job.key,
        network=job.network,
        outcome=JobOutcome.settled,
        result_cid=result.result_cid,
        settled_at=datetime.fromtimestamp(0, UTC),
    )
