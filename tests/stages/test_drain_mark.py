from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import Declined, DeclineReason
from stages.drain import DrainMark, ensure_taking


def test_a_machine_drains_from_the_mark_to_its_end_whoever_looks(tmp_path: Path) -> None:
    ensure_taking(tmp_path)
    DrainMark(tmp_path, lambda: 1_000.0).set()
    DrainMark(tmp_path, lambda: 2_000.0).set()
    assert DrainMark(tmp_path).since() == 1_000.0
    with pytest.raises(Declined) as declined:
        ensure_taking(tmp_path)
    assert (declined.value.reason, declined.value.reason.temporary) == (DeclineReason.draining, True)
    assert DrainMark(tmp_path).end()
    assert not DrainMark(tmp_path).end()
    assert DrainMark(tmp_path).since() is None
    ensure_taking(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"since": null}', b"\xff\x00"])
def test_a_damaged_mark_still_drains(tmp_path: Path, content: bytes) -> None:
    """A full disk must not end what an operator asked for."""
    DrainMark(tmp_path).set()
    (tmp_path / "state" / "draining.json").write_bytes(content)
    assert DrainMark(tmp_path).is_set()
    assert DrainMark(tmp_path).since() is not None


def test_a_worker_that_starts_ends_the_draining_unless_somebody_waits_for_it(tmp_path: Path) -> None:
    """A worker that systemd starts again in the middle of a drain took new jobs."""
    mark = DrainMark(tmp_path)
    assert not mark.end_at_start()
    mark.set()
    with mark.awaited():
        assert not DrainMark(tmp_path).end_at_start()
        assert mark.is_set()
    assert DrainMark(tmp_path).end_at_start()
    assert not mark.is_set()
