"""Sign, send and confirm as a flow does it, whatever became of former signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from given_tools import Tools
from prefect import State, flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows import stage as stage_module
from flows.submit import submit
from flows.workbench import Workbench, working_at
from millrace import retry as retry_module
from millrace.errors import MillraceError, Permanent, Transient, UnknownOutcome
from millrace.job import Job
from millrace.network import Fate, Outcome, Result, SignedSubmission
from stages.progress import Progress
from stages.submit.follow import Pace
from stages.submit.outbox import Entry, Outbox

pytestmark = pytest.mark.usefixtures("prefect_server")

JOB = Job(network="cloudmesh", chain_id="test", job_id="job")
RESULT = Result(result_cid="bafy")


class Chain:
    """A chain on which signatures expire, until their fees suffice."""

    lane = ""

    def __init__(self, fees_suffice_from: int) -> None:
        self.fees_suffice_from = fees_suffice_from
        self.signed = 0
        self.failing: set[int] = set()
        self.open = True

    async def still_open(self, job: Job) -> bool:
        return self.open

    async def prepare(
        self, job: Job, result: Result, generation: int, unsettled: Sequence[SignedSubmission] = ()
    ) -> SignedSubmission:
        self.signed += 1
        return SignedSubmission(
            job_key=job.key,
            network=job.network,
            transaction_id=f"signature {self.signed}",
            payload="AA==",
            expires_at=1,
            generation=generation,
            sender="us",
            result_cid=result.result_cid,
            price=1,
        )

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        if submission.generation in self.failing:
            return Outcome(fate=Fate.failed, final=True, reason="out of compute units")
        landed = submission.generation >= self.fees_suffice_from
        return Outcome(fate=Fate.landed if landed else Fate.expired, final=True)


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", (0.0,) * 5)
    monkeypatch.setattr(retry_module, "BACKOFF_SECONDS", (0.0,) * 5)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield


async def submitted(chain: Chain, folder: Path, outbox: Outbox | None = None) -> State[Any]:
    """The state of a flow run that submits the result."""

    @flow(name="submitting")
    async def submitting() -> SignedSubmission:
        tools = Tools(network=chain, outbox=outbox or Outbox(folder / "outbox"), pace=Pace(), progress=Progress(folder))
        with working_at(cast("Workbench", tools)):
            return await submit(JOB, RESULT)

    return cast("State[Any]", await submitting(return_state=True))


async def test_after_many_expired_signatures_the_next_flow_run_signs_anew(tmp_path: Path) -> None:
    """Five had expired while the fees were too low; raised as the hint said, no flow run ever signed a sixth."""
    chain = Chain(fees_suffice_from=1_000)
    state = await submitted(chain, tmp_path)
    with pytest.raises(UnknownOutcome, match="expired one after the other"):
        await state.aresult()
    assert chain.signed == 5
    chain.fees_suffice_from = 5
    assert (await (await submitted(chain, tmp_path)).aresult()).generation == 5
    assert chain.signed == 6


async def test_a_signature_that_outlived_the_outbox_is_recorded_before_it_is_sent(tmp_path: Path) -> None:
    """Prefect keeps the result of `sign` too: its bytes were sent though the outbox knew nothing of them."""
    chain = Chain(fees_suffice_from=0)
    first = await (await submitted(chain, tmp_path)).aresult()
    (tmp_path / "outbox").rename(tmp_path / "lost")
    again = await (await submitted(chain, tmp_path)).aresult()
    assert again == first
    assert Outbox(tmp_path / "outbox").history(JOB.key)[0].fate is Fate.landed
    assert chain.signed == 1


async def test_a_failed_submission_of_a_job_that_still_waits_is_signed_anew_by_the_next_flow_run(
    tmp_path: Path,
) -> None:
    """Later flow runs took the failed one up again for ever, whatever was changed meanwhile."""
    chain = Chain(fees_suffice_from=0)
    chain.failing = {0}
    assert (await (await submitted(chain, tmp_path)).aresult()).generation == 0
    assert chain.signed == 1, "one flow run does not sign again: the reason comes first"
    assert (await (await submitted(chain, tmp_path)).aresult()).generation == 1
    assert chain.signed == 2


async def test_a_failed_submission_of_a_job_that_others_ended_is_not_signed_anew(tmp_path: Path) -> None:
    chain = Chain(fees_suffice_from=0)
    chain.failing, chain.open = {0}, False
    for _ in range(2):
        assert (await (await submitted(chain, tmp_path)).aresult()).generation == 0
    assert chain.signed == 1


async def test_the_transaction_that_landed_is_noted_once_and_a_rerun_changes_nothing(tmp_path: Path) -> None:
    """Confirmed anew after a crash, a transaction of last week would count as the newest."""
    await (await submitted(Chain(fees_suffice_from=1), tmp_path)).aresult()
    noted = Progress(tmp_path).landing("cloudmesh")
    assert noted is not None
    assert (noted.job_key, noted.transaction_id) == (JOB.key, "signature 2")
    await (await submitted(Chain(fees_suffice_from=1), tmp_path)).aresult()
    assert Progress(tmp_path).landing("cloudmesh") == noted


class Away(Outbox):
    """An outbox that has an error for the first so many questions of a kind."""

    def __init__(self, folder: Path, question: str, error: MillraceError, times: int) -> None:
        super().__init__(folder)
        self.question, self.error, self.times, self.asked = question, error, times, 0

    def history(self, job_key: str) -> tuple[Entry, ...]:
        self._asked("history")
        return super().history(job_key)

    def fate(self, submission: SignedSubmission) -> Fate:
        self._asked("fate")
        return super().fate(submission)

    def _asked(self, question: str) -> None:
        self.asked += question == self.question
        if question == self.question and self.asked <= self.times:
            raise self.error


@pytest.mark.parametrize("question", ["history", "fate"])
async def test_an_outbox_that_is_away_for_a_moment_costs_no_attempt(tmp_path: Path, question: str) -> None:
    """What is asked between the stages was asked once: the job failed, whose result was there."""
    outbox = Away(tmp_path / "outbox", question, Transient("Redis is away"), times=5)
    assert (await (await submitted(Chain(0), tmp_path, outbox)).aresult()).generation == 0
    assert outbox.asked > 5


@pytest.mark.parametrize(("error", "asked"), [(Transient("Redis is away"), 6), (Permanent("no such Redis"), 1)])
async def test_an_outbox_that_stays_away_ends_the_attempt(tmp_path: Path, error: MillraceError, asked: int) -> None:
    chain, outbox = Chain(0), Away(tmp_path / "outbox", "history", error, times=100)
    with pytest.raises(type(error), match="Redis") as caught:
        await (await submitted(chain, tmp_path, outbox)).aresult()
    assert (outbox.asked, chain.signed) == (asked, 0)
    assert JOB.key in str(caught.value), "it says which job"


async def test_as_long_as_the_other_side_asks_for_is_waited() -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    errors = iter([Transient("busy", retry_after_seconds=7), Transient("busy", retry_after_seconds=1e9)])

    async def call() -> str:
        for error in errors:
            raise error
        return "done"

    assert await retry_module.retried(call, job=JOB.key, stage="confirm", sleep=sleep) == "done"
    assert waited == [7, 300]
