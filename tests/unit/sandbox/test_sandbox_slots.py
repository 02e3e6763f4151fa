"""Slots: no two runs on a machine share a user, whichever process started them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from stages.execute.sandbox.slots import Slots


def test_uids_held_at_the_same_time_differ_and_are_reused_afterwards(tmp_path: Path) -> None:
    slots = Slots(61_000, 3, tmp_path / "slots")
    with slots.acquire() as first, slots.acquire() as second:
        assert {first, second} == {61_000, 61_001}
    with slots.acquire() as again:
        assert again == 61_000


def test_when_all_are_in_use_the_error_says_what_to_do(tmp_path: Path) -> None:
    slots = Slots(61_000, 2, tmp_path / "slots")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(slots.acquire())
        with pytest.raises(OSError, match="MILLRACE_SANDBOX__SLOTS"), slots.acquire():
            pass


def test_another_process_gets_another_uid_and_its_death_frees_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from stages.execute.sandbox.slots import Slots; import sys, time\n"
        f"with Slots(61_000, 3, Path({str(tmp_path / 'slots')!r})).acquire() as uid:\n"
        "    print(uid, flush=True); time.sleep(60)\n"
    )
    slots = Slots(61_000, 3, tmp_path / "slots")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "61000\n"
        with slots.acquire() as uid:
            assert uid == 61_001
        other.kill()
        other.wait()
    with slots.acquire() as uid:
        assert uid == 61_000


def test_a_forked_child_does_not_keep_its_parents_slot(tmp_path: Path) -> None:
    """A copy of the lock's descriptor in a child that lives on kept the uid locked after the run."""
    slots = Slots(61_000, 1, tmp_path / "slots")
    block, release = os.pipe()
    with slots.acquire():
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(block, 1)
            os._exit(0)
    with slots.acquire() as uid:
        assert uid == 61_000
    os.close(release)
    os.close(block)
    os.waitpid(pid, 0)


def test_a_lock_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(OSError, match="only its owner"), Slots(61_000, 1, folder).acquire():
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    folder.mkdir(mode=0o700)
    (folder / "61000.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), Slots(61_000, 1, folder).acquire():
        pass
    assert not (tmp_path / "elsewhere").exists()
