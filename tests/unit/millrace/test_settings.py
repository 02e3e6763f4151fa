from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import Permanent
from millrace.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SOLANA_RPC_URL", "PINATA_JWT", "VITE_PINATA_JWT", "WORKER_KEYPAIR_PATH", "POLL_INTERVAL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_public_workers_env_file_is_understood(empty_folder: Path) -> None:
    (empty_folder / ".env").write_text(
        "SOLANA_RPC_URL=http://localhost:8899\n"
        "VITE_PINATA_JWT=token-of-the-operator\n"
        "WORKER_KEYPAIR_PATH=./worker-keypair.json\n"
        "POLL_INTERVAL=3\n"
    )
    settings = load_settings()
    assert settings.cloudmesh.rpc_urls == ("http://localhost:8899",)
    assert settings.ipfs.pinata_jwt is not None
    assert settings.ipfs.pinata_jwt.get_secret_value() == "token-of-the-operator"
    assert settings.cloudmesh.keypair_path == Path("worker-keypair.json")
    assert settings.poll_interval_seconds == 3


def test_our_own_name_wins_over_the_public_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLANA_RPC_URL", "http://public")
    monkeypatch.setenv("MILLRACE_CLOUDMESH__RPC_URLS", "http://ours http://spare")
    assert load_settings().cloudmesh.rpc_urls == ("http://ours", "http://spare")


def test_the_environment_wins_over_the_file(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / ".env").write_text("PINATA_JWT=from-file\n")
    monkeypatch.setenv("PINATA_JWT", "from-environment")
    jwt = load_settings().ipfs.pinata_jwt
    assert jwt is not None
    assert jwt.get_secret_value() == "from-environment"


def test_the_program_id_has_no_default() -> None:
    """Three program ids are in circulation; guessing one serves strangers' jobs or none."""
    assert load_settings().cloudmesh.program_id == ""


def test_the_price_is_the_specifications(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().cloudmesh.cost_lamports == 1_000_000


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LIMITS__WALL_SECONDS", "swordfish")
    with pytest.raises(Permanent) as caught:
        load_settings()
    assert "limits.wall_seconds" in str(caught.value)
    assert "swordfish" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_does_not_show_in_the_printed_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINATA_JWT", "swordfish-jwt")
    settings = load_settings()
    for text in (str(settings), repr(settings), settings.model_dump_json()):
        assert "swordfish-jwt" not in text


def test_every_field_says_what_it_is() -> None:
    """Help texts are where documentation comes from."""

    def undescribed(model: type, path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                found += undescribed(inner, f"{path}{name}.")
            elif not field.description:
                found.append(path + name)
        return found

    assert undescribed(Settings, "") == []


def test_a_section_that_is_no_json_is_a_clear_error_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CLOUDMESH", "{swordfish")
    with pytest.raises(Permanent, match="cloudmesh") as caught:
        load_settings()
    assert "swordfish" not in str(caught.value)


def test_an_endpoint_with_a_key_in_its_path_does_not_show_in_the_printed_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOLANA_RPC_URL", "https://rpc.example/v2/swordfish")
    assert "swordfish" not in repr(load_settings())
