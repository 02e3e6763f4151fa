"""`millrace keys computechain`, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import app
from protocols.computechain.keystore import Keystore, UnusableKey

ADDRESS = "cpc10xcqpzrky6eff2g52qdye53xkk9jxkvr2hadde"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_COMPUTECHAIN__KEYSTORE", str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_a_key_is_made_shown_and_listed_and_its_secret_never_printed(folder: Path) -> None:
    made = CliRunner().invoke(app, ["keys", "computechain", "add", "worker"])
    key = Keystore(folder).load("worker")
    shown = CliRunner().invoke(app, ["keys", "computechain", "show", "worker"])
    listed = CliRunner().invoke(app, ["keys", "computechain", "list"])
    for result in (made, shown, listed):
        assert result.exit_code == 0
        assert key.address in result.output
        assert key.private_bytes.hex() not in result.output
    assert json.loads((folder / "worker.json").read_text())["private_key"] == key.private_bytes.hex()
    assert any(line.split() == ["address", key.address] for line in made.output.splitlines()), "to be cut out by grep"


def test_a_key_is_imported_from_standard_input_and_not_echoed(folder: Path) -> None:
    result = CliRunner().invoke(app, ["keys", "computechain", "import", "old"], input="01" * 32 + "\n")
    assert result.exit_code == 0
    assert ADDRESS in result.output
    assert "01" * 32 not in result.output
    assert Keystore(folder).load("old").address == ADDRESS


@pytest.mark.parametrize(
    "arguments", [["add", "../evil"], ["show", "missing"], ["import", "bad"]], ids=["path", "missing", "no key"]
)
def test_what_cannot_be_is_refused_with_a_reason(folder: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["keys", "computechain", *arguments], input="secret-but-no-key\n")
    assert result.exit_code == 1
    assert result.exception is not None
    assert "secret-but-no-key" not in str(result.exception)
    with pytest.raises(UnusableKey):
        Keystore(folder).load("worker")
