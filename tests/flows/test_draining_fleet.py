"""What a draining machine of a fleet leaves for later, and what it waits for."""

from __future__ import annotations

from pathlib import Path

from redis_server import needs_redis, serving

from flows.draining import left_for_later, unfinished
from millrace.network import SignedSubmission
from millrace.settings import Settings
from stages.drain import DrainMark
from stages.submit.outbox_opening import open_outbox

SIGNED = SignedSubmission(
    job_key="cloudmesh/chain/signed",
    network="cloudmesh",
    transaction_id="tx",
    payload="AA==",
    sender="us",
    result_cid="bafy",
    price=1,
)


@needs_redis
def test_a_machine_of_a_fleet_follows_what_anybody_signed_and_waits_for_nobody(tmp_path: Path) -> None:
    """The fleet always has an open submission: a machine that waited for that would never be empty."""
    runs = [{"job_address": "new"}, {"job_address": "signed"}, {"network": "cloudmesh", "run_seconds": 50.0}]
    with serving(tmp_path) as (url, _):
        own = Settings.model_validate({"data_dir": tmp_path, "fleet_url": url})
        with open_outbox(own) as outbox:
            outbox.record(SIGNED)
        DrainMark(tmp_path).set()
        assert left_for_later(own, runs) == [True, False, False]
        assert unfinished(own) == []
    assert left_for_later(own, runs) == [True, True, False], "a worker goes on while the server is away"
    alone = Settings(data_dir=tmp_path)
    assert left_for_later(alone, runs) == [True, True, False], "and where the settings name it no more"
