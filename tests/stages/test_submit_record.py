"""Settle and record: the receipt says what the chain was told, and the outbox waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cloudmesh_world import CID, OTHER_CID, World, cloudmesh_world

from millrace.errors import Permanent
from millrace.job import Job
from millrace.limits import Limits, Usage
from millrace.network import Result
from millrace.receipt import Execution, JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from stages.submit.confirm import confirm_submission
from stages.submit.outbox import Outbox
from stages.submit.record import settle_and_record
from stages.submit.sign import sign_submission


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with cloudmesh_world(tmp_path) as world:
        yield world


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def receipts(tmp_path: Path) -> ReceiptLog:
    return ReceiptLog(tmp_path / "receipts")


def draft(job: Job, result_cid: str) -> Receipt:
    execution = Execution(
        backend="test", status="ok", returncode=0, source=CID, source_sha256="", limits=Limits(), usage=Usage()
    )
    return Receipt(
        job_key=job.key,
        network=job.network,
        outcome=JobOutcome.settled,
        execution=execution,
        result_cid=result_cid,
        result_sha256="of the result",
        evidence_cid="evidence",
        published_to=("pinata",),
        settled_at=datetime.now(UTC),
    )


async def test_the_receipt_of_a_second_run_names_the_result_that_was_signed_for(
    world: World, outbox: Outbox, receipts: ReceiptLog
) -> None:
    """A job started by hand while the watcher's run was at it: both ran it, one result landed, and the receipt
    named the other one beside that transaction."""
    address = world.post("run twice")
    async with world.worker() as network:
        job = await network.find(address)
        await sign_submission(job, Result(result_cid=CID), 0, network=network, outbox=outbox)
        second = await sign_submission(job, Result(result_cid=OTHER_CID), 0, network=network, outbox=outbox)
        await confirm_submission(job, second, network=network, outbox=outbox, pace=world.pace())
        receipt = await settle_and_record(
            job,
            second,
            draft(job, OTHER_CID),
            network=network,
            outbox=outbox,
            receipts=receipts,
            clock=world.clock,
            pace=world.pace(),
        )
    recorded = world.owner.job(address)
    assert recorded is not None
    assert receipt.outcome is JobOutcome.settled
    assert receipt.result_cid == recorded.result_cid == CID
    assert (receipt.execution, receipt.result_sha256, receipt.evidence_cid) == (None, "", "")
    assert receipt.published_to == ()


async def test_the_outbox_keeps_the_job_until_its_receipt_is_written(
    world: World, outbox: Outbox, receipts: ReceiptLog
) -> None:
    """With a log that could not be appended to, the job was put away, and nobody ever wrote its receipt."""
    address = world.post("no receipt yet")
    receipts.path.parent.mkdir()
    receipts.path.write_text("not a receipt\n")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, Result(result_cid=CID), 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())

        async def record() -> Receipt:
            return await settle_and_record(
                job,
                submission,
                draft(job, CID),
                network=network,
                outbox=outbox,
                receipts=receipts,
                clock=world.clock,
                pace=world.pace(),
            )

        with pytest.raises(Permanent, match="receipt log is broken"):
            await record()
        assert outbox.unsettled() == [submission]
        receipts.path.unlink()
        receipt = await record()
    assert receipt.execution is not None
    assert receipt.evidence_cid == "evidence"
    assert outbox.unsettled() == []
    assert receipts.verify()[0] == 1
