"""The upload stage: no result before every configured place confirmed the CID that we computed."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import Permanent
from millrace.settings import IpfsSettings
from protocols.ipfs.cid import CID
from protocols.ipfs.content import open_content
from protocols.ipfs.errors import PublishFailed, PublishRefused
from protocols.ipfs.importer import import_file
from protocols.ipfs.uploads import UploadRecords
from stages.upload.ipfs import Uploaded, upload_content

RESULT = '{"stdout":"42\\n","stderr":"","returncode":0}'
LARGE = random.Random(12).randbytes(700_000)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[IpfsLocalnet]:
    with IpfsLocalnet(tmp_path / "network") as network:
        yield network


def settings(network: IpfsLocalnet, *places: str, jwt: str = "") -> IpfsSettings:
    """Settings with the named sinks of the localnet."""
    return IpfsSettings(
        gateways=(),
        daemon=network.rpc_url if "rpc" in places else "",
        pinata_jwt=SecretStr(jwt or network.pinata_jwt) if "pinata" in places else None,
        pinata_api=network.pinata_url,
        timeout_seconds=2.0,
    )


@pytest.mark.parametrize("document", [RESULT, RESULT.encode(), b"", LARGE], ids=["text", "bytes", "empty", "large"])
async def test_a_document_is_kept_and_confirmed_by_every_place(
    network: IpfsLocalnet, tmp_path: Path, document: str | bytes
) -> None:
    raw = document.encode() if isinstance(document, str) else document
    async with open_content(settings(network, "rpc", "pinata"), tmp_path) as tools:
        uploaded = await upload_content(document, "result.json", content=tools)
        assert tools.store.get(uploaded.cid) == raw
        assert not tools.store.entry(uploaded.cid).pinned, "others have it: it may go when room is needed"
    assert uploaded == Uploaded(
        cid=str(import_file(raw).cid),
        size_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        places=("embedded store", "daemon", "pinata"),
    )
    assert uploaded.available_to_others
    assert network.store.read(CID.parse(uploaded.cid)) == raw


async def test_without_a_sink_the_document_is_addressed_and_nobody_else_has_it(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    async with open_content(settings(network), tmp_path) as tools:
        uploaded = await upload_content(RESULT, "result.json", content=tools)
        assert tools.store.entry(uploaded.cid).pinned, "it is the only copy"
    assert uploaded.places == ("embedded store",)
    assert not uploaded.available_to_others


@pytest.mark.parametrize("failing", ["rpc", "pinata"])
@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        (Faults(status=500), PublishFailed),
        (Faults(cut=True), PublishFailed),
        (Faults(hang_seconds=30), PublishFailed),
        (Faults(other_cid=True), PublishRefused),
    ],
    ids=["error", "cut", "hang", "other cid"],
)
async def test_one_place_that_does_not_confirm_means_no_result(
    network: IpfsLocalnet, tmp_path: Path, failing: str, faults: Faults, kind: type[Exception]
) -> None:
    network.misbehave(failing, faults)
    async with open_content(settings(network, "rpc", "pinata"), tmp_path) as tools:
        with pytest.raises(kind):
            await upload_content(RESULT, "result.json", content=tools)
        network.misbehave(failing)
        assert (await upload_content(RESULT, "result.json", content=tools)).cid == str(import_file(RESULT.encode()).cid)


async def test_uploading_again_gives_the_same_result(network: IpfsLocalnet, tmp_path: Path) -> None:
    async with open_content(settings(network, "rpc", "pinata"), tmp_path) as tools:
        first = await upload_content(LARGE, "one name", content=tools)
        assert await upload_content(LARGE, "another name", content=tools) == first


async def test_a_refused_token_is_shown_nowhere(
    network: IpfsLocalnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_content(settings(network, "pinata", jwt="eyJ-a-secret-token"), tmp_path) as tools:
        with pytest.raises(PublishRefused) as caught:
            await upload_content(RESULT, "result.json", content=tools)
    assert "eyJ-a-secret-token" not in f"{caught.value!r} {caught.value} {caplog.text} {tools!r}"


async def test_the_token_goes_to_pinata_only(network: IpfsLocalnet, tmp_path: Path) -> None:
    async with open_content(settings(network, "rpc", "pinata"), tmp_path) as tools:
        await upload_content(LARGE, "result", content=tools)
    carriers = {
        name
        for name, service in network.services.items()
        for _, path, headers in service.requests
        if network.pinata_jwt in f"{path} {headers}"
    }
    assert carriers == {"pinata"}


async def test_a_pinning_service_comes_last_and_finds_what_the_others_provide(
    network: IpfsLocalnet, tmp_path: Path
) -> None:
    three = settings(network, "rpc", "pinata").model_copy(
        update={
            "pinning_service": network.pinning_service_url,
            "pinning_service_token": SecretStr(network.pinata_jwt),
            "timeout_seconds": 10.0,
        }
    )
    async with open_content(three, tmp_path) as tools:
        uploaded = await upload_content(RESULT, "result.json", content=tools)
    assert uploaded.places == ("embedded store", "daemon", "pinata", "pinning service")
    records = UploadRecords(tmp_path / "uploads")
    for service in uploaded.places[1:]:
        record = records.find(CID.parse(uploaded.cid), service)
        assert record is not None
        assert (record.cid, record.size, record.service, record.state) == (
            uploaded.cid,
            len(RESULT),
            service,
            "pinned",
        )


@pytest.mark.parametrize("fields", [{"pinning_service_token": SecretStr("x")}, {"pinata_jwt": SecretStr("x")}])
def test_a_pinning_service_without_bytes_or_token_is_refused_when_the_content_is_opened(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    alone = IpfsSettings(pinning_service="https://pins.example").model_copy(update=fields)
    with pytest.raises(Permanent, match="pinning service"):
        open_content(alone, tmp_path)


def test_what_was_uploaded_comes_back_from_json() -> None:
    uploaded = Uploaded(cid="bafkqaaa", size_bytes=0, sha256="00", places=("embedded store", "daemon"))
    assert Uploaded.model_validate_json(uploaded.model_dump_json()) == uploaded
