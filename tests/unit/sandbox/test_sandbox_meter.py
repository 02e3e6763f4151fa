"""Measuring a container from outside: where that can be had, and when it would measure something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.execute.sandbox.containers.meter import Meter, meters_for

TOLD = {"CgroupDriver": "cgroupfs", "CgroupVersion": "1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of version 1 as the machine itself sees it."""
    for controller in ("memory", "cpuacct"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "release_agent").touch()
    (tmp_path / "memory/memory.use_hierarchy").write_text("1\n")
    return tmp_path


def test_containers_are_measured_where_our_groups_can_be_put_around_docker_s(root: Path) -> None:
    assert meters_for(TOLD, root) == root


@pytest.mark.parametrize("told", [{}, {**TOLD, "CgroupDriver": "systemd"}, {**TOLD, "CgroupVersion": "2"}])
def test_where_docker_s_groups_are_not_its_own_nothing_is_measured(root: Path, told: dict[str, str]) -> None:
    assert meters_for(told, root) is None


@pytest.mark.parametrize("lacking", ["memory/release_agent", "cpuacct/release_agent"])
def test_in_a_container_with_groups_of_its_own_nothing_is_measured(root: Path, lacking: str) -> None:
    """Ours would be made in another place than Docker's, and stay there, one set a run."""
    (root / lacking).unlink()
    assert meters_for(TOLD, root) is None


def test_a_kernel_that_does_not_count_what_is_inside_is_not_asked(root: Path) -> None:
    (root / "memory/memory.use_hierarchy").write_text("0\n")
    assert meters_for(TOLD, root) is None


def test_a_group_that_something_still_runs_in_measures_nothing(root: Path) -> None:
    """The container of a worker that was killed in another container: what it uses would be the next job's."""
    meter = Meter(root, 61_000)
    assert meter.reset()
    assert meter.reset(), "an empty one begins anew"
    another = root / "memory/millrace/61000/another"
    another.mkdir()
    assert meter.reset(), "a daemon that was killed leaves empty groups"
    another.mkdir()
    (another / "a process").touch()  # a group with one cannot be removed either
    assert not meter.reset()


def test_a_group_that_nothing_ran_in_says_so(root: Path) -> None:
    """Zero would be a figure that nobody measured."""
    meter = Meter(root, 61_000)
    meter.reset()
    (root / "cpuacct/millrace/61000/cpuacct.usage").write_text("0\n")
    (root / "memory/millrace/61000/memory.max_usage_in_bytes").write_text("0\n")
    assert (meter.cpu_seconds(), meter.peak_memory_bytes()) == (None, None)
    (root / "cpuacct/millrace/61000/cpuacct.usage").write_text("1500000000\n")
    (root / "memory/millrace/61000/memory.max_usage_in_bytes").write_text("4096\n")
    assert (meter.cpu_seconds(), meter.peak_memory_bytes()) == (1.5, 4096)
