"""What `millrace doctor` says of a worker's settings and of the servers they name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner

from deployments.cli import app
from deployments.doctor import examine
from localnet.ipfs import Faults, IpfsLocalnet
from localnet.solana import SolanaLocalnet
from millrace.errors import Permanent
from millrace.settings import CloudMeshSettings, IpfsSettings, Settings
from protocols.ipfs.content import open_content
from protocols.solana.keypair import load_or_create_keypair
from stages.fetch.ipfs import fetch_content

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def solana() -> Iterator[SolanaLocalnet]:
    with SolanaLocalnet() as running:
        yield running


@pytest.fixture(scope="module")
def _ipfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsLocalnet]:
    with IpfsLocalnet(tmp_path_factory.mktemp("ipfs")) as running:
        yield running


@pytest.fixture
def ipfs(_ipfs: IpfsLocalnet) -> IpfsLocalnet:
    for name in _ipfs.services:
        _ipfs.misbehave(name)
    return _ipfs


@pytest.fixture
def key(tmp_path: Path, solana: SolanaLocalnet) -> Path:
    """A worker's key with money on the chain."""
    keypair, _ = load_or_create_keypair(tmp_path / "key.json")
    solana.chain.airdrop(str(keypair.pubkey()), 10**9)
    return tmp_path / "key.json"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def well_set_up(folder: Path, solana: SolanaLocalnet, ipfs: IpfsLocalnet, key: Path) -> Settings:
    return Settings(
        data_dir=folder / "data",
        cloudmesh=CloudMeshSettings(program_id=solana.program_id, rpc_urls=(solana.url,), keypair_path=key),
        ipfs=IpfsSettings(
            gateways=(ipfs.gateway_url, ipfs.legacy_gateway_url),
            allow_private_gateways=True,
            daemon=ipfs.rpc_url,
            pinata_jwt=SecretStr(ipfs.pinata_jwt),
            pinata_api=ipfs.pinata_url,
        ),
    )


@pytest.fixture
def good(tmp_path: Path, solana: SolanaLocalnet, ipfs: IpfsLocalnet, key: Path) -> Settings:
    return well_set_up(tmp_path, solana, ipfs, key)


def changed(settings: Settings, section: str, **fields: object) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=fields)})


async def lines(settings: Settings) -> tuple[int, list[str]]:
    """Exit code, and each finding with its remedy behind an arrow, as a terminal of 80 columns gets them."""
    screen = io.StringIO()
    code = await examine(settings, Console(file=screen, width=80, soft_wrap=True))
    found: list[str] = []
    for line in screen.getvalue().splitlines():
        if line.startswith(" "):
            found[-1] += f" -> {line.strip()}"
        else:
            found.append(line)
    return code, found


async def about(settings: Settings, what: str) -> tuple[int, str]:
    """Exit code and the findings that begin with `what`, one a line."""
    code, found = await lines(settings)
    return code, "\n".join(line for line in found if line.split(maxsplit=1)[1].startswith(what))


async def test_a_worker_that_can_work_is_told_so(good: Settings) -> None:
    code, found = await lines(good)
    assert code == 0, found
    assert [line for line in found if line.startswith("missing")] == []
    (network,) = [line for line in found if "cloudmesh: " in line]
    assert network.startswith("ok")
    assert "balance 1000000000" in network
    content = [line for line in found if "content: " in line]
    assert [line[:2] for line in content] == ["ok"] * 4, content


async def test_every_finding_that_is_not_good_says_what_to_do(good: Settings) -> None:
    _, found = await lines(changed(good, "ipfs", gateways=(NOWHERE,), daemon=NOWHERE, pinata_jwt=SecretStr("wrong")))
    assert len([line for line in found if line.startswith(("weak", "missing"))]) >= 3
    assert [line for line in found if not line.startswith("ok") and " -> " not in line] == []


@pytest.mark.parametrize(
    ("fields", "says", "do"),
    [
        ({"program_id": ""}, "PROGRAM_ID is not set", "export PROGRAM_ID="),
        ({"program_id": "nonsense"}, "PROGRAM_ID is not a Solana address", "base58"),
        ({"rpc_urls": ()}, "no Solana RPC endpoint is set", "SOLANA_RPC_URL"),
        ({"rpc_urls": (NOWHERE,)}, "", " -> "),
        ({"genesis_hash": "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"}, "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc", ""),
    ],
)
async def test_a_network_that_cannot_be_served_is_missing(
    good: Settings, fields: dict[str, object], says: str, do: str
) -> None:
    code, line = await about(changed(good, "cloudmesh", **fields), "cloudmesh: ")
    assert code == 1
    assert line.startswith("missing")
    assert says in line
    assert do in line


async def test_a_network_that_is_left_out_is_fine_and_the_way_to_it_is_shown(good: Settings) -> None:
    code, line = await about(good, "computechain: ")
    assert (code, line[:2]) == (0, "ok")
    assert "not served" in line
    assert "MILLRACE_COMPUTECHAIN__RPC_URLS" in line


@pytest.mark.parametrize(
    ("fields", "level", "says"),
    [
        ({"device": "cpu", "size": 64}, "ok", "on the CPU"),
        ({"device": "cuda:63", "size": 64}, "missing", "make setup GPU=1"),
    ],
)
async def test_the_device_that_challenges_are_solved_on_is_looked_at(
    good: Settings, fields: dict[str, object], level: str, says: str
) -> None:
    served = changed(good, "computechain", rpc_urls=(NOWHERE,), **fields)
    _, line = await about(served, "device: ")
    assert line.startswith(level)
    assert says in line


async def test_without_any_network_there_is_nothing_to_do(good: Settings) -> None:
    code, line = await about(changed(good, "cloudmesh", program_id="", rpc_urls=()), "cloudmesh: ")
    assert (code, line[:7]) == (1, "missing")
    assert "SOLANA_RPC_URL" in line


async def test_a_worker_without_money_is_told_where_to_send_it(good: Settings, tmp_path: Path) -> None:
    keypair, _ = load_or_create_keypair(tmp_path / "poor.json")
    code, line = await about(changed(good, "cloudmesh", keypair_path=tmp_path / "poor.json"), "cloudmesh: ")
    assert (code, line[:7]) == (1, "missing")
    assert f"lamports to {keypair.pubkey()}" in line


def readable_by_all(key: Path) -> None:
    key.chmod(0o644)


def cut_short(key: Path) -> None:
    key.write_text(json.dumps(json.loads(key.read_text())[:-1]))


@pytest.mark.parametrize(("damage", "says"), [(readable_by_all, "chmod 600"), (cut_short, "64")])
async def test_a_key_that_cannot_be_used_is_missing_and_not_shown(
    good: Settings, key: Path, damage: Callable[[Path], None], says: str
) -> None:
    secret = bytes(load_or_create_keypair(key)[0])
    damage(key)
    code, line = await about(good, "cloudmesh: ")
    assert (code, line[:7]) == (1, "missing")
    assert says in line
    assert str(list(secret[:6]))[1:-1] not in line


@pytest.mark.parametrize(
    ("service", "faults", "says"),
    [
        ("gateway", Faults(html=True), "is no IPFS gateway"),
        ("gateway", Faults(status=503), "answered 503"),
        ("gateway", Faults(redirect_to="http://127.0.0.1:9/"), "redirects"),
        ("rpc", Faults(html=True), "daemon"),
        ("rpc", Faults(status=500), "daemon"),
        ("pinata", Faults(status=401), "Pinata refuses our token"),
        ("pinata", Faults(html=True), "not JSON"),
    ],
)
async def test_a_place_for_content_that_answers_nonsense_is_reported(
    good: Settings, ipfs: IpfsLocalnet, service: str, faults: Faults, says: str
) -> None:
    ipfs.misbehave(service, faults)
    code, found = await about(good, "content: ")
    assert code == 0, "there are other places"
    (weak,) = [line for line in found.splitlines() if not line.startswith("ok")]
    assert weak.startswith("weak")
    assert says in weak


async def test_a_gateway_that_lied_is_shown_with_what_it_did_until_it_is_forgiven(
    good: Settings, ipfs: IpfsLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ipfs.misbehave("gateway", Faults(wrong_bytes=True))
    wanted = ipfs.add(b"a program")
    async with open_content(good.ipfs.model_copy(update={"daemon": ""}), good.data_dir) as content:
        await fetch_content(wanted, 1000, content=content)
    ipfs.misbehave("gateway")
    _, found = await about(good, f"content: {ipfs.gateway_url}")
    assert found.startswith("weak")
    assert "is not asked any more" in found
    assert wanted in found
    assert f"-> millrace forgive {ipfs.gateway_url}" in found
    monkeypatch.setenv("MILLRACE_DATA_DIR", str(good.data_dir))
    assert CliRunner().invoke(app, ["forgive", ipfs.gateway_url]).exit_code == 0
    assert (await about(good, f"content: {ipfs.gateway_url}"))[1].startswith("ok")
    assert isinstance(CliRunner().invoke(app, ["forgive", ipfs.gateway_url]).exception, Permanent)


async def test_a_pinning_service_is_checked_and_one_that_nobody_gives_bytes_to_is_missing(
    good: Settings, ipfs: IpfsLocalnet
) -> None:
    token = SecretStr(ipfs.pinata_jwt)
    pinned = changed(good, "ipfs", pinning_service=ipfs.pinning_service_url, pinning_service_token=token)
    _, found = await about(pinned, "content: ")
    assert "ok       content: pinning service answers" in found
    for fields in ({"daemon": "", "pinata_jwt": None}, {"pinning_service_token": None}):
        code, found = await about(changed(pinned, "ipfs", **fields), "content: ")
        assert (code, found[:7]) == (1, "missing")
        assert "MILLRACE_IPFS__" in found


async def test_results_that_nobody_else_can_read_are_weak(good: Settings) -> None:
    code, found = await about(changed(good, "ipfs", daemon="", pinata_jwt=None), "content: ")
    assert code == 0
    assert "weak     content: results stay on this machine" in found


async def test_nowhere_to_read_programs_from_is_missing(good: Settings) -> None:
    code, found = await about(changed(good, "ipfs", daemon="", pinata_jwt=None, gateways=()), "content: ")
    assert code == 1
    assert "missing  content: programs can be read from nowhere" in found


async def test_an_address_for_content_that_may_not_be_used_is_missing(good: Settings) -> None:
    code, found = await about(changed(good, "ipfs", allow_private_gateways=False), "content: ")
    assert (code, found[:7]) == (1, "missing")
    assert "127.0.0.1" in found


async def test_the_database_is_named_without_its_password(good: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+asyncpg://millrace:c0rrect-horse@db.example/prefect"
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", url)
    _, line = await about(good, "database: ")
    assert line.startswith("ok")
    assert "db.example" in line
    assert "c0rrect" not in line


async def test_a_database_that_cannot_be_used_is_missing(good: Settings) -> None:
    (good.data_dir / "postgres").mkdir(parents=True)
    code, line = await about(good, "database: ")
    assert (code, line[:7]) == (1, "missing")
    assert "no PostgreSQL cluster" in line


async def test_a_misspelt_variable_is_reported(good: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DATA_DRI", "/somewhere")
    code, line = await about(good, "settings: ")
    assert code == 0
    assert "MILLRACE_DATA_DRI is no setting; did you mean MILLRACE_DATA_DIR?" in line


async def test_nothing_of_a_token_is_printed(good: Settings, ipfs: IpfsLocalnet) -> None:
    ipfs.misbehave("pinata", Faults(status=401))
    _, found = await lines(good)
    assert ipfs.pinata_jwt not in "\n".join(found)
