from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import Permanent
from millrace.settings import Settings, load_settings, no_setting, unknown_variables


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
    assert "MILLRACE_LIMITS__WALL_SECONDS: " in str(caught.value)
    assert "swordfish" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_setting_is_told_under_the_name_that_the_operator_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLL_INTERVAL", "often")
    with pytest.raises(Permanent, match="MILLRACE_POLL_INTERVAL_SECONDS or POLL_INTERVAL: "):
        load_settings()
    monkeypatch.delenv("POLL_INTERVAL")
    monkeypatch.setenv("VITE_PINATA_JWT", "[]")
    monkeypatch.setenv("MILLRACE_MAX_ATTEMPTS", "0")
    with pytest.raises(Permanent, match="MILLRACE_MAX_ATTEMPTS: "):
        load_settings()


def test_a_setting_that_does_not_exist_is_told_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CLOUDMESH__RPC_URL", "http://secret")
    with pytest.raises(Permanent) as caught:
        load_settings()
    assert "MILLRACE_CLOUDMESH__RPC_URL is no setting; did you mean MILLRACE_CLOUDMESH__RPC_URLS?" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_variables_that_look_like_ours_and_mean_nothing_are_found(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_DATA_DRI", "/somewhere")
    monkeypatch.setenv("MILLRACE_LIMITS", "{}")
    monkeypatch.setenv("MILLRACE_IPFS__MAX_BYTES", "1")
    (empty_folder / ".env").write_text("millrace_max_atempts=9\n")
    assert unknown_variables() == ["MILLRACE_DATA_DRI", "MILLRACE_MAX_ATEMPTS"]
    assert no_setting("MILLRACE_DATA_DRI").endswith("did you mean MILLRACE_DATA_DIR?")


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
