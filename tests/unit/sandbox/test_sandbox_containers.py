"""Containers without a daemon: what they are created with, what their streams say, whose they are."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import Declined, DeclineReason
from millrace.limits import MIB, Limits
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox import open_sandbox
from stages.execute.sandbox.containers.attached import Frames
from stages.execute.sandbox.containers.daemon import API_VERSION, Daemon, find_daemon
from stages.execute.sandbox.containers.image import Image, write_layer
from stages.execute.sandbox.containers.leftovers import is_abandoned
from stages.execute.sandbox.containers.options import (
    BOOT,
    GVISOR_BYTES,
    LATE_SECONDS,
    OWNER,
    UNTIL,
    USER,
    container_options,
    program_archive,
    realm,
    since_boot,
)
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.sandbox.interpreter import Interpreter
from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.streams import Kept

RUNC = Daemon("unix:///nowhere", "20.10", "runc", "runc", ())
RUNSC = Daemon("unix:///nowhere", "20.10", "runsc", "/usr/bin/runsc --oci-seccomp", ())
IMAGE = Image("sha256:" + "a" * 64, "/usr/bin/python3", variables=("PATH", "GPG_KEY"))
DEAD = "millrace-1-0-1"  # process 1 lives, but did not start at the very tick of the boot


@pytest.fixture
def api() -> Iterator[APIClient]:
    """A client that has nobody to talk to."""
    client = APIClient(base_url="unix:///nowhere", version=API_VERSION)
    yield client
    client.close()


def options(api: APIClient, daemon: Daemon = RUNC, within: Limits | None = None) -> Any:
    return container_options(api, daemon, IMAGE, within or Limits(), name=new_name(), uid=61_007)


def test_gvisor_is_told_of_select_by_the_name_it_knows(api: APIClient) -> None:
    """It refused every job's `select`, as its releases of 2022 do not know `pselect6`."""
    assert '"pselect"' in options(api, RUNSC)["host_config"]["SecurityOpt"][1]
    assert '"pselect"' not in options(api, RUNC)["host_config"]["SecurityOpt"][1]


def test_everything_docker_can_take_away_is_taken_away(api: APIClient) -> None:
    asked = options(api)
    host = asked["host_config"]
    assert asked["user"] == "61007:61007"
    assert (host["NetworkMode"], host["IpcMode"], host["ReadonlyRootfs"]) == ("none", "none", True)
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"][0] == "no-new-privileges:true"
    assert host["SecurityOpt"][1].startswith('seccomp={"defaultAction": "SCMP_ACT_ERRNO"')
    assert host["LogConfig"]["Type"] == "none"
    assert not {"Binds", "Devices", "CapAdd", "Privileged", "VolumesFrom", "PidMode"} & set(host)
    assert [(mount["Type"], mount["Target"], mount["Source"]) for mount in host["Mounts"]] == [("volume", "/job", None)]


def test_the_limits_are_docker_s_too(api: APIClient) -> None:
    within = Limits(wall_seconds=3, cpus=0.5, memory_bytes=128 * MIB, processes=9, open_files=7, scratch_bytes=MIB)
    host = options(api, within=within)["host_config"]
    assert (host["Memory"], host["MemorySwap"]) == (128 * MIB, 128 * MIB)
    assert (host["PidsLimit"], host["CpuQuota"] / host["CpuPeriod"]) == (10, 0.5)
    assert f"size={MIB}" in host["Tmpfs"]["/tmp"]
    resources = {entry["Name"]: (entry["Soft"], entry["Hard"]) for entry in host["Ulimits"]}
    assert resources["nofile"] == (7, 7)
    assert resources["fsize"] == (MIB, MIB)
    assert resources["core"] == resources["msgqueue"] == (0, 0)
    assert resources["cpu"] == (4, 5), "first the signal that says why, then the one that cannot be ignored"


def test_gvisor_s_own_memory_is_not_taken_from_the_job(api: APIClient) -> None:
    within = Limits(memory_bytes=128 * MIB)
    assert options(api, RUNSC, within)["host_config"]["Memory"] == 128 * MIB + GVISOR_BYTES


def test_no_variable_of_docker_the_image_or_the_worker_s_proxy_reaches_a_job(api: APIClient) -> None:
    """The SDK copies the proxies of ~/.docker/config.json, passwords included, unless it is told not to."""
    asked = options(api)
    values = [entry for entry in asked["environment"] if "=" in entry]
    assert sorted(entry.partition("=")[0] for entry in values) == ["HOME", "LANG", "PATH"]
    assert {"HOSTNAME", "GPG_KEY"} == set(asked["environment"]) - set(values), "a name alone takes a variable away"
    assert asked["use_config_proxy"] is False


@given(st.binary(max_size=500))
def test_the_program_is_handed_over_readable_and_unwritable(program: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(program_archive(program))) as archive:
        (entry,) = archive.getmembers()
        file = archive.extractfile(entry)
        assert file is not None
        assert (entry.name, entry.mode, entry.uid, file.read()) == ("main.py", 0o444, 0, program)


@given(
    frames=st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.binary(max_size=40)), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    limit=st.integers(0, 200),
)
def test_frames_are_taken_apart_however_they_come(frames: list[tuple[int, bytes]], cuts: list[int], limit: int) -> None:
    wire = b"".join(struct.pack(">BxxxI", stream, len(content)) + content for stream, content in frames)
    outputs = {1: Kept(limit), 2: Kept(limit)}
    taking = Frames(outputs)
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for begin, end in pairwise(places):
        taking.feed(wire[begin:end])
    for stream, output in outputs.items():
        whole = b"".join(content for number, content in frames if number == stream)
        assert bytes(output.kept) == whole[:limit]
        assert output.cut == (len(whole) > limit)


def container(state: str = "running", **labels: str) -> dict[str, Any]:
    return {"State": state, "Labels": {OWNER: DEAD, **realm(), **labels}}


def test_only_what_nobody_waits_for_is_swept() -> None:
    here = realm()
    assert is_abandoned(container(), here, 0.0)
    assert not is_abandoned(container(**{OWNER: new_name()}), here, 0.0), "ours, and we live"
    assert not is_abandoned(container(**{OWNER: f"{DEAD}-1"}), here, 0.0), "a worker inside another container may live"
    assert not is_abandoned(container(**{USER: "1"}), here, 0.0), "another user's worker may be hidden from us"
    assert not is_abandoned(container(**{OWNER: "somebody-else-1"}), here, 0.0)
    assert not is_abandoned(container(**{BOOT: "another"}), here, 0.0), "it runs, so that boot is not over"
    assert is_abandoned(container("exited", **{BOOT: "another"}), here, 0.0)


def test_a_container_whose_time_is_over_is_swept_whosever_it_was(api: APIClient) -> None:
    """The killed worker was in a container of its own: its pid meant nothing to others, and the job ran for ever."""
    labels = options(api, within=Limits(wall_seconds=30.5))["labels"]
    until = since_boot() + 30.5 + LATE_SECONDS
    assert until <= int(labels[UNTIL]) + 1 <= until + 3
    elsewhere = container(**{**labels, OWNER: f"{DEAD}-1"})
    assert not is_abandoned(elsewhere, realm(), until - 3)
    assert is_abandoned(elsewhere, realm(), until + 3)
    for known in ({**labels, USER: "1"}, {**labels, BOOT: "another"}, {**labels, UNTIL: "soon"}):
        assert not is_abandoned(container(**{**known, OWNER: f"{DEAD}-1"}), realm(), until + 3)


def interpreter(folder: Path) -> Interpreter:
    library = folder / "lib/python3.11"
    (library / "site-packages").mkdir(parents=True)
    (library / "site-packages/secret.py").write_text("")
    (library / "os.py").write_text("")
    (library / "os.py").chmod(0o666)
    (folder / "python").write_text("")
    (folder / "python").chmod(0o4755)
    binds = ((folder / "python", Path("/usr/bin/python3.11")), (library, Path("/usr/lib/python3.11")))
    return Interpreter(
        Path("/usr/bin/python3.11"),
        "3.11.2",
        binds,
        (Path("/usr/lib/python3.11/site-packages"),),
        (("usr/lib", "/lib"),),
    )


def test_an_image_has_the_interpreter_and_nothing_that_can_be_changed_or_is_installed_beside_it(tmp_path: Path) -> None:
    file = io.BytesIO()
    write_layer(file, interpreter(tmp_path))
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
    library = "usr/lib/python3.11"
    assert set(entries) == {
        *("job", "lib", "tmp", "usr", "usr/bin", "usr/lib", "usr/bin/python3.11"),
        *(library, f"{library}/os.py", f"{library}/site-packages"),
    }
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert not any(entry.mode & 0o7022 for entry in entries.values() if not entry.issym())
    assert entries["lib"].linkname == "usr/lib"


def docker_settings(**fields: Any) -> Settings:
    return Settings(_env_file=None, sandbox=SandboxSettings(backend="docker", **fields))


@pytest.mark.parametrize(
    ("address", "says", "do"),
    [
        ("unix:///nowhere/docker.sock", "no Docker daemon answers at unix:///nowhere/docker.sock", "start it"),
        ("tcp://192.0.2.1:2376", "not on this machine", "unix://"),
    ],
)
def test_without_a_daemon_jobs_are_declined_and_doctor_says_what_helps(address: str, says: str, do: str) -> None:
    with pytest.raises(Declined, match=says) as caught:
        open_sandbox(docker_settings(docker_host=address))
    assert caught.value.reason is DeclineReason.no_sandbox
    assert do in caught.value.hint
    (finding,) = diagnose(docker_settings(docker_host=address))
    assert (finding.level, finding.remedy) == ("missing", caught.value.hint)


def test_the_usual_socket_is_asked_when_nothing_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///from/the/environment")
    with pytest.raises(Declined, match="unix:///from/the/environment"):
        find_daemon(SandboxSettings(backend="docker"))
    with pytest.raises(Declined, match="unix:///from/settings"):
        find_daemon(SandboxSettings(backend="docker", docker_host="unix:///from/settings"))
    assert os.environ["DOCKER_HOST"]
