"""A model of submission, for any network: hypothesis decides what happens next, and nothing may go wrong.

Two processes of one machine and one of another are at the same few jobs. Each goes on a few stops at a time, dies
wherever it stopped or at a named point later, and is begun anew; between the stops the chain moves, loses, and
misbehaves. After every step the chain's own records are compared with what the machines have on their disks, and at
the end every job is run until it has ended.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import ssl
import sys
import tempfile
from collections.abc import Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from submission_actor import Actor, Flaw, Machine, stopping_before

from millrace.job import Job
from millrace.network import Fate, Network, Result, SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from stages.submit.outbox import Entry

CIDS = (
    "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
    "bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq",
)
MOST_JOBS = 3
RUNS_TO_THE_END = 8
MOST_STOPS = 2_000
SLOTS = {"first": 0, "second": 0, "elsewhere": 1}
"""The processes by name, and which machine each is on."""

WRITES = ("outbox.record", "outbox.mark", "outbox.settle")
DEATHS = (*(f"{when} {write}" for write in WRITES for when in ("before", "after")), "before rpc send", "after send")
STOPS = (
    "after prepare",  # twice: here two processes meet that know nothing of each other
    "after prepare",
    "signed, and the flow has not kept it",
    "after send",
    "asleep",
    "confirmed",
    "after settlement",
)
DEAD = (Fate.expired, Fate.failed)

slots = st.sampled_from(sorted(SLOTS))
job_numbers = st.integers(0, MOST_JOBS - 1)
cids = st.sampled_from(CIDS)
seldom = st.sampled_from([False, False, False, True])


def model_settings(examples: int, steps: int) -> settings:
    """How much of a model is tried: so many examples in CI, a multiple where MILLRACE_MODEL_EXAMPLES asks for it."""
    times = int(os.environ.get("MILLRACE_MODEL_EXAMPLES", "1"))
    return settings(
        max_examples=examples * times,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


def run_model(machine: type[SubmissionMachine], rpc: type[Any], methods: Sequence[str], of_size: settings) -> None:
    """Try the model; processes stop before they call those methods of their RPC client. Raises what went wrong."""
    # Every process opens clients, and certificates are of no use on the loopback.
    certificates = functools.cache(ssl.create_default_context)
    with stopping_before(rpc, *methods), mock.patch("ssl.create_default_context", certificates):
        run_state_machine_as_test(machine, settings=of_size)


class SubmissionMachine(RuleBasedStateMachine):
    """What all networks have in common; a network's own machine adds its chain, and what can happen only there."""

    flaw: ClassVar[Flaw] = Flaw()
    deadline_seconds: ClassVar[float] = 12.0
    usual_blocks: ClassVar[int] = 3
    """How many come while a process sleeps, unless the model says otherwise."""

    many_blocks: ClassVar[int] = 40
    """How many the model makes at once at most."""

    one_in_blocks: ClassVar[bool] = True
    """Whether a machine's second transaction for a job should be in no block, not even as a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.seconds = 0.0
        self.blocks_a_sleep = self.usual_blocks
        self.at_the_end = False
        self.machines = [Machine(name, self.folder / name) for name in ("one", "two")]
        self.actors: dict[str, Actor] = {}
        self.jobs: list[Job] = []
        self.numbers = itertools.count()
        self.open_chain()

    # ---- what a network says ----

    def open_chain(self) -> None:
        """Begin a chain, on `self.stack`."""
        raise NotImplementedError

    def open_network(self, machine: Machine) -> AbstractAsyncContextManager[Network[Any]]:
        """A new process's client on that machine."""
        raise NotImplementedError

    def new_job(self) -> Job:
        """A job, to be seen by everybody."""
        raise NotImplementedError

    def make_blocks(self, count: int) -> None:
        """Let the chain go on."""
        raise NotImplementedError

    def end_trouble(self) -> None:
        """Clear every fault that still waits."""
        raise NotImplementedError

    def result(self, cid: str) -> Result:
        """A result to submit."""
        return Result(result_cid=cid)

    def landed(self, submission: SignedSubmission) -> bool:
        """Whether the chain has the transaction in a block, and it succeeded."""
        raise NotImplementedError

    def may_land(self, submission: SignedSubmission) -> bool:
        """Whether the chain would still take the transaction, however it gets there."""
        raise NotImplementedError

    def is_over(self, job: Job) -> bool:
        """Whether the chain wants the job done no more."""
        raise NotImplementedError

    def submissions_in_blocks(self, job: Job, machine: Machine) -> list[str]:
        """The machine's transactions for the job in blocks, successful or not."""
        raise NotImplementedError

    def ensure_chain_counts_one(self, job: Job) -> None:
        """Return if no more than one submission had its effect, whosever it was, where the chain allows one."""

    # ---- time ----

    def pass_time(self, seconds: float) -> None:
        """What a process's sleep does to the world."""
        self.seconds += seconds
        if self.blocks_a_sleep:
            self.make_blocks(self.blocks_a_sleep)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the loop that all processes share."""
        self.runner.run(work)

    # ---- rules ----

    @initialize(jobs=st.integers(1, MOST_JOBS))
    def begin_with_jobs(self, jobs: int) -> None:
        for _ in range(jobs):
            self.post()

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule()
    def post(self) -> None:
        self.jobs.append(self.new_job())

    @rule(slot=slots, job=job_numbers, cid=cids, stops=st.integers(1, 12))
    def go_on(self, slot: str, job: int, cid: str, stops: int) -> None:
        """Let a process go on; one that ended is begun anew, at a job."""
        self.let(self.at_work(slot, job, cid), stops)

    @rule(slot=slots, job=job_numbers, cid=cids)
    def go_far(self, slot: str, job: int, cid: str) -> None:
        self.let(self.at_work(slot, job, cid), 60)

    @rule(slot=slots, job=job_numbers, cid=cids, point=st.sampled_from(STOPS))
    def go_to(self, slot: str, job: int, cid: str, point: str) -> None:
        """Let a process go on until it stops at that point, if it comes there."""
        self.let(self.at_work(slot, job, cid), 60, until=point)

    @rule(slot=slots, job=job_numbers, cid=cids, point=st.sampled_from(DEATHS))
    def die_at(self, slot: str, job: int, cid: str, point: str) -> None:
        """Let a process go on until it comes to that point, if it does, and die there."""
        self.actors[self.at_work(slot, job, cid)].dies_at = point
        self.let(slot, 60)

    @rule(job=job_numbers, apart=st.integers(0, 1), results=st.tuples(cids, cids), point=st.sampled_from(STOPS))
    def two_go_to(self, job: int, apart: int, results: tuple[str, str], point: str) -> None:
        """Begin two processes of one machine, at one job or at two: both come to that point, and go on from there."""
        for number, slot in enumerate(("first", "second")):
            self.kill(slot)
            self.let(self.at_work(slot, job + number * apart, results[number]), 60, until=point)
        for slot in ("first", "second"):
            if slot in self.actors:
                self.let(slot, 4)

    @precondition(lambda self: self.actors)
    @rule(slot=slots)
    def kill(self, slot: str) -> None:
        if slot in self.actors:
            self.run(self.actors.pop(slot).kill())

    @rule(count=st.sampled_from([1, 1, 2, 3, 5, 40]))
    def blocks(self, count: int) -> None:
        self.make_blocks(min(count, self.many_blocks))

    @rule(count=st.sampled_from([0, 1, 3, 40]))
    def let_sleep_make_blocks(self, count: int) -> None:
        self.blocks_a_sleep = min(count, self.many_blocks)

    # ---- what must be true after every step ----

    @invariant()
    def all_is_well(self) -> None:
        """What the machines have on their disks fits what the chain says."""
        for job in self.jobs:
            self.ensure_chain_counts_one(job)
        for machine in self.machines:
            outbox, receipts = machine.outbox(), machine.receipts()
            followed = {submission.job_key for submission in outbox.unsettled()}
            histories = {job.key: outbox.history(job.key) for job in self.jobs}
            self.ensure_nonces_differ([each for history in histories.values() for each in history])
            for job in self.jobs:
                history = histories[job.key]
                about = f"{machine.name}, {job.key}: {history}"
                self.ensure_one_at_most_can_land(history, about)
                self.ensure_what_was_noted_is_true(history, about)
                self.ensure_blocks_hold_one_that_was_recorded(job, machine, history)
                if history:
                    self.ensure_not_lost(job, history, receipts.find(job.key), followed)

    def ensure_nonces_differ(self, entries: Sequence[Entry]) -> None:
        """Of two submissions with one nonce, one was signed in vain."""
        alive = [each.submission for each in entries if each.fate not in DEAD and each.submission.lane]
        places = [(each.lane, each.nonce) for each in alive]
        assert len(set(places)) == len(places), f"two of one nonce: {alive}"

    def ensure_one_at_most_can_land(self, history: Sequence[Entry], about: str) -> None:
        alive = [each for each in history if self.may_land(each.submission)]
        landed = [each for each in history if self.landed(each.submission)]
        assert len(alive) + len(landed) <= 1, f"more than one may land. {about}"

    def ensure_what_was_noted_is_true(self, history: Sequence[Entry], about: str) -> None:
        assert [each.submission.generation for each in history] == list(range(len(history))), about
        assert all(each.fate in DEAD for each in history[:-1]), f"signed anew beside a living one. {about}"
        for each in history:
            assert each.fate not in DEAD or not self.landed(each.submission), f"a dead one landed. {about}"
            assert each.fate is not Fate.expired or not self.may_land(each.submission), f"it may yet land. {about}"

    def ensure_blocks_hold_one_that_was_recorded(self, job: Job, machine: Machine, history: Sequence[Entry]) -> None:
        sent = self.submissions_in_blocks(job, machine)
        assert set(sent) <= {each.submission.transaction_id for each in history}, f"{job.key}: sent, not recorded"
        assert len(sent) <= 1 or not self.one_in_blocks, f"{machine.name}, {job.key}: in blocks are {sent}"

    def ensure_not_lost(
        self, job: Job, history: Sequence[Entry], receipt: Receipt | None, followed: Collection[str]
    ) -> None:
        if receipt is not None:
            ours = any(self.landed(each.submission) for each in history)
            assert (receipt.outcome is JobOutcome.settled) == ours, f"{job.key}: the chain does not say {receipt}"
        elif job.key not in followed:
            assert self.is_over(job), f"{job.key} is followed no more"
            assert all(each.fate in DEAD for each in history), f"{job.key} is followed no more: {history}"

    # ---- the end ----

    def teardown(self) -> None:
        """Run every job to its end, on a chain that works again."""
        try:
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            for actor in self.actors.values():
                self.run(actor.kill())
            self.stack.close()

    def end(self) -> None:
        """Every job ends, whichever process it is left to, and within a few runs."""
        self.end_trouble()
        self.at_the_end = True
        self.blocks_a_sleep = 3
        for _ in range(MOST_STOPS):
            for slot in list(self.actors):  # in turns: one may wait for another's lock
                self.let(slot, 1)
        assert not self.actors, f"there is no end: {[actor.at for actor in self.actors.values()]}"
        for machine, job in itertools.product(self.machines, self.jobs):
            if machine is self.machines[0] or machine.outbox().history(job.key):
                self.end_job(machine, job)
        self.all_is_well()

    def end_job(self, machine: Machine, job: Job) -> None:
        """Run the job's flow on that machine as often as it takes."""
        for _ in range(RUNS_TO_THE_END):
            self.actors["last"] = self.begin(machine, job, CIDS[0])
            ended = self.let("last", MOST_STOPS)
            self.all_is_well()
            if machine.receipts().find(job.key) is not None or ended.startswith("Declined(closed)"):
                followed = {each.job_key for each in machine.outbox().unsettled()}
                assert job.key not in followed, f"{job.key} has ended and is followed still: {ended}"
                return
        raise AssertionError(f"{machine.name}, {job.key}: {RUNS_TO_THE_END} runs, the last: {ended}")

    # ---- processes ----

    def begin(self, machine: Machine, job: Job, cid: str) -> Actor:
        """A new process."""
        return Actor(
            machine,
            job.job_id,
            self.result(cid),
            open_network=lambda: self.open_network(machine),
            sending=self.ensure_recorded,
            clock=lambda: self.seconds,
            pass_time=self.pass_time,
            deadline_seconds=self.deadline_seconds * (100 if self.at_the_end else 1),
            flaw=self.flaw,
        )

    def at_work(self, slot: str, job: int, cid: str) -> str:
        """The same slot, with a process in it."""
        if slot not in self.actors:
            self.actors[slot] = self.begin(self.machines[SLOTS[slot]], self.jobs[job % len(self.jobs)], cid)
        return slot

    def let(self, slot: str, stops: int, until: str = "") -> str:
        """Let a process go on that many stops, or until that one, or it waits for a lock; how it ended, if it did."""
        actor = self.actors[slot]

        async def go() -> None:
            for _ in range(stops):
                await actor.step()
                if actor.ended or actor.at == until or actor.at.startswith("without"):
                    break

        self.run(go())
        if actor.ended:
            del self.actors[slot]
        return actor.ended

    def ensure_recorded(self, machine: Machine, submission: SignedSubmission) -> None:
        """Nothing is sent that the disk does not know."""
        known = [each.submission for each in machine.outbox().history(submission.job_key)]
        assert submission in known, f"{submission} is sent and was never recorded"
