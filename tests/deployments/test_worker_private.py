"""What the warm worker takes from Prefect that is not public: a version that has it otherwise must be noticed here."""

from __future__ import annotations

import inspect
from uuid import uuid4

from prefect.runner._control_channel import ControlChannel
from prefect.workers.base import BaseWorker


def test_prefects_worker_still_has_what_ours_replaces() -> None:
    for name, parameters in (
        ("_submit_run", ["self", "flow_run"]),
        ("_propose_submitting_state", ["self", "flow_run"]),
        ("_propose_pending_state", ["self", "flow_run"]),
        ("_get_scheduled_flow_runs", ["self"]),
        ("_give_worker_labels_to_flow_run", ["self", "flow_run_id"]),
    ):
        method = getattr(BaseWorker, name)
        assert inspect.iscoroutinefunction(method), name
        assert list(inspect.signature(method).parameters) == parameters, name
    taking = inspect.getsource(BaseWorker._submit_scheduled_flow_runs)
    assert "self._submit_run" in taking, "each flow run that is taken goes through it"
    assert "self._get_scheduled_flow_runs()" in inspect.getsource(BaseWorker.get_and_submit_flow_runs)
    asking = inspect.getsource(BaseWorker._get_scheduled_flow_runs)
    for used in ("self._prefetch_seconds", "list(self._work_queues)", "except ObjectNotFound:"):
        assert used in asking, used
    assert "self._last_polled_time" in inspect.getsource(BaseWorker.get_and_submit_flow_runs)
    submitting = inspect.getsource(BaseWorker._submit_run)
    for used in ("self._propose_pending_state(", "self._submitting_flow_run_ids.remove(", "self._release_limit_slot("):
        assert used in submitting, used
    assert list(inspect.signature(BaseWorker._release_limit_slot).parameters) == ["self", "flow_run_id"]


async def test_the_control_channel_still_tells_that_a_process_has_connected() -> None:
    flow_run_id = uuid4()
    async with ControlChannel() as channel:
        channel.register(flow_run_id)
        assert not channel._registrations[flow_run_id].connected.is_set()
