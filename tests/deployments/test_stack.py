from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.demo_jobs import JOBS
from deployments.prepare import ensure_server_is_known
from deployments.stack import pinned_settings, prefect_environment
from millrace.errors import Permanent
from millrace.settings import load_settings

SHOW = """from millrace.settings import load_settings
settings = load_settings()
print(settings.data_dir, settings.cloudmesh.keypair_path, settings.max_attempts)"""


def test_a_flow_run_in_another_folder_uses_its_workers_key_data_and_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flow runs work in the project's folder: they made a second key there, and nobody funded it."""
    operator, elsewhere = tmp_path / "operator", tmp_path / "elsewhere"
    for folder in (operator, elsewhere):
        folder.mkdir()
    (operator / ".env").write_text("MILLRACE_MAX_ATTEMPTS=9\n")
    monkeypatch.chdir(operator)
    environment = {**os.environ, **pinned_settings(load_settings())}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(operator / ".millrace"), str(operator / "worker-keypair.json"), "9"]


def test_every_user_gets_a_temporary_folder_of_his_own(tmp_path: Path) -> None:
    """Prefect's runner keeps files in <temporary folder>/runner_storage, which belongs to whoever ran first."""
    folder = Path(prefect_environment(tmp_path, 4200)["TMPDIR"])
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_worker_without_a_server_refuses_instead_of_starting_one_that_nobody_ends() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(Permanent, match="PREFECT_API_URL"):
        ensure_server_is_known()


def test_the_demo_expects_of_the_memory_hog_what_the_machine_can_enforce() -> None:
    (hog,) = [job for job in JOBS if job.status == "oom"]
    assert (hog.without_groups().status, hog.without_groups().shows) == ("exit", "MemoryError")
    assert [job.without_groups() for job in JOBS if job is not hog] == [job for job in JOBS if job is not hog]
