from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stages.progress import Landing, Looks, Progress

LANDING = Landing(job_key="cloudmesh/chain/job", transaction_id="tx", height=7, seen_at=5.0)


def test_what_one_process_notes_another_reads(tmp_path: Path) -> None:
    assert (Progress(tmp_path).looks("cloudmesh"), Progress(tmp_path).landing("cloudmesh")) == (None, None)
    Progress(tmp_path).looked("cloudmesh", now=1.0, head=9, pending=2, given_up=1)
    Progress(tmp_path).landed("cloudmesh", LANDING)
    assert Progress(tmp_path).looks("cloudmesh") == Looks(looked_at=1.0, head=9, pending=2, given_up=1)
    assert Progress(tmp_path).landing("cloudmesh") == LANDING
    assert Progress(tmp_path).looks("offchainvm") is None


def test_trouble_does_not_forget_the_last_success_and_a_success_forgets_the_trouble(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.looked("cloudmesh", now=1.0, head=9, pending=2, given_up=0)
    progress.could_not_look("cloudmesh", now=2.0, trouble="503\x1b[2J" + "x" * 10_000)
    looks = progress.looks("cloudmesh")
    assert looks is not None
    assert (looks.looked_at, looks.head, looks.trouble_at) == (1.0, 9, 2.0)
    assert looks.trouble.startswith("503")
    assert "\x1b" not in looks.trouble
    assert len(looks.trouble) < 1_000
    progress.looked("cloudmesh", now=3.0, head=10, pending=0, given_up=0)
    assert progress.looks("cloudmesh") == Looks(looked_at=3.0, head=10)


def test_no_room_is_no_look_and_no_trouble(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.could_not_look("coordinator", now=1.0, trouble="503")
    progress.full("coordinator", now=2.0)
    looks = progress.looks("coordinator")
    assert looks is not None
    assert (looks.looked_at, looks.trouble, looks.full_at) == (None, "", 2.0)


@pytest.mark.parametrize("content", [b"", b"{", b'{"looked_at": "soon"}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    progress = Progress(tmp_path)
    progress.looked("cloudmesh", now=1.0, head=9, pending=2, given_up=0)
    (path,) = (tmp_path / "state" / "progress").iterdir()
    path.write_bytes(content)
    assert progress.looks("cloudmesh") is None
    progress.looked("cloudmesh", now=1.0, head=9, pending=2, given_up=0)
    assert progress.looks("cloudmesh") is not None


def test_what_cannot_be_written_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Money is at stake where a landing is noted, and none is in the note."""
    (tmp_path / "state").write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING):
        Progress(tmp_path).landed("cloudmesh", LANDING)
    assert "cannot be noted" in caplog.text
