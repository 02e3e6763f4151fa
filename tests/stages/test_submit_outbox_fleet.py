"""An outbox that several machines share: who may write, what a lost lock or a lost connection costs, what is kept."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from computechain_world import RESULT, WEI, computechain_world
from near_world import answer, near_world
from outbox_places import TTL_SECONDS, FleetPlace
from redis_server import DURABLE, needs_redis, serving, until_it_answers
from test_submit_outbox import KEY, in_lane, submission

from localnet.near import Dialect
from millrace.errors import Permanent, Transient
from millrace.network import Fate, SignedSubmission
from millrace.settings import Settings
from stages.locks.server import connect
from stages.submit.confirm import confirm_submission
from stages.submit.outbox import Outbox, StillAlive
from stages.submit.outbox_diagnosis import diagnose_outbox
from stages.submit.outbox_fleet import FleetStore
from stages.submit.outbox_opening import open_outbox
from stages.submit.outbox_store import name_of
from stages.submit.sign import sign_submission

pytestmark = needs_redis

SPAWN = multiprocessing.get_context("spawn")


def fleet_settings(folder: Path, url: str) -> Settings:
    return Settings.model_validate({"data_dir": folder, "fleet_url": url})


def _sign(place: FleetPlace, mine: SignedSubmission, told: Connection, *, asleep: bool) -> None:
    """Sign as the stage does; with `asleep`, stop for good between signing and writing it down, until woken."""

    async def sign() -> str:
        outbox = place.open()
        try:
            async with outbox.lock(mine.job_key), outbox.lane_lock(mine.lane):
                if (recorded := outbox.recorded(mine.job_key, 0)) is not None:
                    return recorded.transaction_id
                outbox.ensure_next(mine.job_key, 0)
                if asleep:
                    told.send("signed")
                    os.kill(os.getpid(), signal.SIGSTOP)
                outbox.record(mine)
                return mine.transaction_id
        except Transient as error:
            return f"Transient: {error.message}"

    told.send(asyncio.run(sign()))


class Signer:
    """A process of another machine that signs."""

    def __init__(self, place: FleetPlace, mine: SignedSubmission, *, asleep: bool = False) -> None:
        self._told, theirs = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=_sign, args=(place, mine, theirs), kwargs={"asleep": asleep})
        self.process.start()
        theirs.close()

    async def says(self) -> str:
        assert await asyncio.to_thread(self._told.poll, 60)
        return str(self._told.recv())

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self._told.close()


@pytest.fixture
def signer() -> Iterator[Any]:
    made: list[Signer] = []

    def make(*arguments: Any, **more: Any) -> Signer:
        made.append(Signer(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        each.end()


async def test_two_machines_that_sign_for_one_job_make_one_signature(fleet: FleetPlace, signer: Any) -> None:
    """Pins a folder for each machine, where both signed and both sent."""
    racing = [signer(fleet, submission(transaction_id=f"of {name}")) for name in ("one", "two", "three")]
    said = [await each.says() for each in racing]
    assert len(set(said)) == 1
    (entry,) = fleet.open().history(KEY)
    assert entry.submission.transaction_id == said[0]


async def test_a_signer_that_slept_through_its_locks_life_cannot_write_down(fleet: FleetPlace, signer: Any) -> None:
    """A lock that expires does not stop its holder: woken, it would take the nonce that another took meanwhile."""
    sleeper = signer(fleet, in_lane("slow", 7), asleep=True)
    assert await sleeper.says() == "signed"
    outbox = fleet.open()
    async with asyncio.timeout(TTL_SECONDS + 10), outbox.lock("computechain/test/fast"), outbox.lane_lock("lane"):
        assert outbox.in_lane("lane") == []
        outbox.record(in_lane("fast", 7))
    os.kill(sleeper.process.pid, signal.SIGCONT)
    assert "Transient" in await sleeper.says()
    assert outbox.in_lane("lane") == [in_lane("fast", 7)]
    assert outbox.latest("computechain/test/slow") is None


async def test_a_sleeper_is_refused_also_where_nobody_took_its_lock(fleet: FleetPlace, signer: Any) -> None:
    sleeper = signer(fleet, submission(), asleep=True)
    assert await sleeper.says() == "signed"
    await asyncio.sleep(TTL_SECONDS * 1.5)
    os.kill(sleeper.process.pid, signal.SIGCONT)
    assert "Transient" in await sleeper.says()
    assert fleet.open().history(KEY) == ()


async def test_a_lock_that_is_kept_for_longer_than_it_lives_is_good(fleet: FleetPlace) -> None:
    """The control of the two above: being slow is no reason to be refused, as long as the lock is renewed."""
    outbox = fleet.open()
    async with outbox.lock(KEY), outbox.lane_lock("lane"):
        await asyncio.sleep(TTL_SECONDS * 1.5)
        outbox.record(submission())
    assert fleet.open().latest(KEY) == submission()


async def test_a_killed_signer_leaves_its_locks_and_nothing_else(fleet: FleetPlace, signer: Any) -> None:
    killed = signer(fleet, in_lane("killed", 3), asleep=True)
    assert await killed.says() == "signed"
    killed.process.kill()
    outbox, key = fleet.open(), "computechain/test/killed"
    async with asyncio.timeout(TTL_SECONDS + 10), outbox.lock(key), outbox.lane_lock("lane"):
        outbox.record(in_lane("killed", 3))
    assert outbox.unsettled() == [in_lane("killed", 3)]


def test_what_another_machine_wrote_in_between_is_not_overwritten(fleet: FleetPlace) -> None:
    """`confirm` of two machines at once: each writes without the job's lock."""
    one, other = fleet.open(), fleet.open()
    one.record(submission())

    class Late(FleetStore):
        """Another is faster, once, between reading and writing."""

        late = False

        def read(self, job_key: str) -> Any:
            kept = super().read(job_key)
            if not self.late:
                self.late = True
                other.mark(submission(), Fate.expired)
                other.record(submission(1))
            return kept

    with connect(fleet.url) as client:
        Outbox(Late(client)).mark(submission(), Fate.failed)
    assert [entry.fate for entry in one.history(KEY)] == [Fate.failed, Fate.unknown]
    with pytest.raises(StillAlive):
        one.record(submission(2))


async def test_a_signature_whose_acknowledgement_was_lost_is_found_before_another_is_made(
    fleet: FleetPlace,
) -> None:
    """The connection ends between the write and its answer: signing anew would make two."""

    class Cut(FleetStore):
        cut = True

        def _ask(self, *command: Any) -> Any:
            answer = super()._ask(*command)
            if self.cut and command[0] == "EVAL":
                self.cut = False
                raise Transient("no answer")
            return answer

    class Network:
        lane = ""
        signed = 0

        async def prepare(self, *about: Any) -> SignedSubmission:
            self.signed += 1
            return submission(transaction_id=f"signature {self.signed}")

    class Job:
        key = KEY

    network: Any = Network()
    job: Any = Job()
    with connect(fleet.url) as client:
        outbox = Outbox(Cut(client, ttl_seconds=TTL_SECONDS))
        with pytest.raises(Transient):
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        signed = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    assert (network.signed, signed.transaction_id) == (1, "signature 1")
    assert len(outbox.history(KEY)) == 1


def test_a_restart_of_the_server_forgets_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, *DURABLE) as (url, server):
        outbox = FleetPlace(url).open()
        for job in range(20):
            outbox.record(in_lane(str(job), job))
        outbox.mark(in_lane("0", 0), Fate.expired)
        outbox.settle("computechain/test/1")
        idle = FleetPlace(url).open()
        assert len(idle.unsettled()) == 19
        server.kill()
        with pytest.raises(Transient, match="MILLRACE_FLEET_URL"):
            outbox.unsettled()
    with serving(tmp_path, *DURABLE) as (url, server):
        until_it_answers(url, server)
        assert len(idle.unsettled()) == 19  # by a connection that ended with the former server
        again = FleetPlace(url).open()
        assert [each.nonce for each in again.in_lane("lane")] == list(range(2, 20))
        assert again.history("computechain/test/0")[0].fate is Fate.expired
        assert again.latest("computechain/test/1") == in_lane("1", 1)
        assert again.damaged() == []


async def test_a_server_that_is_away_while_a_submission_is_confirmed_loses_nothing(tmp_path: Path) -> None:
    with computechain_world(tmp_path / "chain") as world:
        async with world.worker() as network:
            job = await world.newest_job(network)
            with serving(tmp_path, *DURABLE) as (url, _):
                outbox = FleetPlace(url).open()
                signed = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
            with pytest.raises(Transient):
                await confirm_submission(job, signed, network=network, outbox=outbox, pace=world.pace())
            assert world.chain.calls["send"] == 0  # what the outbox may not know is not sent
            with serving(tmp_path, *DURABLE) as (url, _):
                outcome = await confirm_submission(
                    job, signed, network=network, outbox=FleetPlace(url).open(), pace=world.pace()
                )
                assert outcome.fate is Fate.landed
            assert world.answers(network) == [signed.transaction_id]


async def test_one_machine_at_a_time_sees_who_follows(fleet: FleetPlace) -> None:
    one, other = fleet.open(), fleet.open()
    async with one.followers_turn() as first, other.followers_turn() as second:
        assert (first, second) == (True, False)
    async with other.followers_turn() as later:
        assert later


async def test_nonces_of_one_lane_from_two_machines_are_consecutive_on_computechain(
    fleet: FleetPlace, tmp_path: Path
) -> None:
    with computechain_world(tmp_path) as world:
        async with world.worker(wei=10 * WEI) as one, world.worker() as two:
            assert one.lane == two.lane
            jobs = []
            for _ in range(6):
                world.chain.make_block()
                jobs.append(await world.newest_job(one))
            outboxes = (fleet.open(), fleet.open())
            signed = await asyncio.gather(
                *(
                    sign_submission(job, RESULT, 0, network=(one, two)[i % 2], outbox=outboxes[i % 2])
                    for i, job in enumerate(jobs)
                )
            )
    assert sorted(each.nonce or 0 for each in signed) == list(range(6))


async def test_nonces_of_one_lane_from_two_machines_are_consecutive_on_near(fleet: FleetPlace, tmp_path: Path) -> None:
    with near_world(tmp_path, Dialect.head) as world:
        async with world.worker("one") as one, world.worker("two") as two:
            assert one.lane == two.lane
            jobs = [await world.job(one) for _ in range(4)]
            outboxes = (fleet.open(), fleet.open())
            signed = await asyncio.gather(
                *(
                    sign_submission(job, answer(), 0, network=(one, two)[i % 2], outbox=outboxes[i % 2])
                    for i, job in enumerate(jobs)
                )
            )
    nonces = sorted(each.nonce or 0 for each in signed)
    assert nonces == list(range(nonces[0], nonces[0] + 4))


# ---- joining and leaving a fleet, and what a person is told ----


def test_what_a_machine_has_signed_goes_over_when_it_joins(fleet: FleetPlace, tmp_path: Path) -> None:
    """Pins a machine that joins and signs again for what it has sent already."""
    own = Outbox(tmp_path / "outbox")
    own.record(submission())
    own.record(submission(job_key="cloudmesh/genesis/done"))
    own.settle("cloudmesh/genesis/done")
    for _ in range(2):
        with open_outbox(fleet_settings(tmp_path, fleet.url)) as outbox:
            assert outbox.unsettled() == [submission()]
            assert outbox.latest("cloudmesh/genesis/done") is not None
    assert own.unsettled() == []


def test_a_machine_that_has_signed_for_a_job_of_the_fleet_may_not_join(fleet: FleetPlace, tmp_path: Path) -> None:
    fleet.open().record(submission(transaction_id="of another machine"))
    own = Outbox(tmp_path / "outbox")
    own.record(submission())
    for _ in range(2):
        with pytest.raises(Permanent, match="another submission"), open_outbox(fleet_settings(tmp_path, fleet.url)):
            pytest.fail("two signatures for one job")
    assert own.unsettled() == [submission()]


def test_a_machine_does_not_leave_its_fleet_unnoticed(fleet: FleetPlace, tmp_path: Path) -> None:
    with open_outbox(fleet_settings(tmp_path, fleet.url)) as outbox:
        outbox.record(submission())
    with pytest.raises(Permanent, match="MILLRACE_FLEET_URL is not set"), open_outbox(Settings(data_dir=tmp_path)):
        pytest.fail("it would not know what is open")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--appendonly", "no"), "appendonly is off"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "appendfsync is everysec"),
        ((*DURABLE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
        (DURABLE, ""),
    ],
)
def test_a_server_that_may_forget_is_told(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    with serving(tmp_path, *options) as (url, _):
        (finding,) = diagnose_outbox(fleet_settings(tmp_path, url))
    assert finding.level == ("weak" if told else "ok")
    assert told in finding.text
    assert ("forgotten" in finding.text) == bool(told)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    (finding,) = diagnose_outbox(fleet_settings(tmp_path, f"unix://{tmp_path / 'nothing'}"))
    assert (finding.level, "no answer" in finding.text) == ("missing", True)


def test_one_machine_alone_is_told_nothing(tmp_path: Path) -> None:
    assert diagnose_outbox(Settings(data_dir=tmp_path)) == []


def test_a_live_record_that_is_gone_from_the_server_is_damage(fleet: FleetPlace) -> None:
    """Somebody emptied a part of the server: that there was something must not go unnoticed."""
    outbox = fleet.open()
    outbox.record(submission())
    with connect(fleet.url) as client:
        client.delete(*client.keys("millrace:outbox:record:*"))
    assert len(outbox.damaged_live()) == 1


def test_a_flow_run_that_began_before_its_machine_joined_signs_nothing_any_more(
    fleet: FleetPlace, tmp_path: Path
) -> None:
    """What it signed would be in no fleet's outbox, or a second signature beside the one that went over."""
    before = Outbox(tmp_path / "outbox")
    before.record(submission())
    with open_outbox(fleet_settings(tmp_path, fleet.url)) as outbox:
        for late in (submission(transaction_id="another"), submission(job_key="cloudmesh/genesis/later")):
            with pytest.raises(Transient, match="joined a fleet"):
                before.record(late)
        assert outbox.unsettled() == [submission()]
    assert before.unsettled() == []


def test_a_machine_that_may_not_join_has_given_nothing_away(fleet: FleetPlace, tmp_path: Path) -> None:
    """It goes on without the fleet, as it is told to, and would sign again for what went over before the trouble."""
    jobs = [f"cloudmesh/genesis/{n}" for n in range(8)]
    own = Outbox(tmp_path / "outbox")
    for job in jobs:
        own.record(submission(job_key=job))
    last = max(jobs, key=name_of)
    fleet.open().record(submission(job_key=last, transaction_id="of another machine"))
    with pytest.raises(Permanent, match="another submission"), open_outbox(fleet_settings(tmp_path, fleet.url)):
        pytest.fail("two signatures for one job")
    with open_outbox(Settings(data_dir=tmp_path)) as outbox:
        assert {each.job_key for each in outbox.unsettled()} == set(jobs)
    assert [each.job_key for each in fleet.open().unsettled()] == [last]


def test_a_machine_that_dies_while_it_joins_does_not_go_on_alone(
    fleet: FleetPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet follows what went over, and both would sign when it expires."""
    Outbox(tmp_path / "outbox").record(submission())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt), open_outbox(fleet_settings(tmp_path, fleet.url)):
        pass
    monkeypatch.undo()
    assert fleet.open().unsettled() == [submission()]
    with pytest.raises(Permanent, match="MILLRACE_FLEET_URL is not set"), open_outbox(Settings(data_dir=tmp_path)):
        pytest.fail("it would follow what the fleet follows")
    with open_outbox(fleet_settings(tmp_path, fleet.url)) as outbox:
        assert outbox.unsettled() == [submission()]
