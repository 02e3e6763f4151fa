"""The stand-ins themselves: they speak the protocols, keep their blocks, and misbehave when told over HTTP."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import pytest

from localnet.ipfs import IpfsLocalnet
from localnet.ipfs.faults import CONTROL_PATH, Faults
from localnet.ipfs.multipart import parse_multipart
from protocols.ipfs.cid import CID
from protocols.ipfs.importer import import_file
from protocols.ipfs.profiles import V0


async def test_faults_are_set_shown_and_ended_over_http(network: IpfsLocalnet, client: httpx.AsyncClient) -> None:
    control = network.gateway_url + CONTROL_PATH
    content = f"{network.gateway_url}/ipfs/{network.add(b'content')}?format=raw"
    assert (await client.post(control, json={"status": 503, "times": 2})).status_code == 200
    assert (await client.get(control)).json()["status"] == 503
    assert [(await client.get(content)).status_code for _ in range(3)] == [503, 503, 200]
    await client.post(control, json={"html": True})
    await client.post(control, json={})
    assert (await client.get(content)).content == b"content"
    served = network.services["gateway"].served
    assert (served["503"], served["html"]) == (2, 0), "nobody met the page"


async def test_faults_follow_one_another_without_a_good_answer_between(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    content = f"{network.gateway_url}/ipfs/{network.add(b'content')}?format=raw"
    network.misbehave("gateway", Faults(status=503, times=2), Faults(status=429, times=1))
    assert [(await client.get(content)).status_code for _ in range(4)] == [503, 503, 429, 200]
    network.misbehave("gateway", Faults(status=503, times=1), Faults(status=429, times=1))
    network.misbehave("gateway")
    assert (await client.get(content)).status_code == 200, "what was to follow is forgotten too"


async def test_a_fault_that_does_not_exist_is_refused(network: IpfsLocalnet, client: httpx.AsyncClient) -> None:
    answer = await client.post(network.rpc_url + CONTROL_PATH, json={"explode": True})
    assert answer.status_code == 422
    assert "explode" in answer.text


async def test_the_gateway_passes_the_probe_for_trustless_ones(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    for method in ("GET", "HEAD"):
        answer = await client.request(method, f"{network.gateway_url}/ipfs/bafkqaaa?format=raw")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"] == "application/vnd.ipld.raw"


async def test_the_accept_header_alone_asks_for_blocks(network: IpfsLocalnet, client: httpx.AsyncClient) -> None:
    url = f"{network.gateway_url}/ipfs/{network.add(b'content')}"
    answer = await client.get(url, headers={"Accept": "application/vnd.ipld.car"})
    assert answer.headers["Content-Type"].startswith("application/vnd.ipld.car; version=1")
    assert (await client.get(url)).content == b"content"


async def test_gateways_answer_a_bad_cid_with_400_and_a_missing_one_with_404(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    missing = import_file(b"nobody added this").cid
    for base in (network.gateway_url, network.legacy_gateway_url):
        assert (await client.get(f"{base}/ipfs/nonsense")).status_code == 400
        assert (await client.get(f"{base}/ipfs/{missing}?format=raw")).status_code == 404


async def test_the_rpc_is_post_only(network: IpfsLocalnet, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{network.rpc_url}/api/v0/version")).status_code == 405
    assert (await client.post(f"{network.rpc_url}/api/v0/version")).json()["Version"]


async def test_pinata_writes_json_anew_and_names_it_by_the_version_asked_for(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    body = {"pinataContent": {"answer": 42}, "pinataOptions": {"cidVersion": 1}, "pinataMetadata": {"name": "x"}}
    headers = {"Authorization": f"Bearer {network.pinata_jwt}"}
    url = f"{network.pinata_url}/pinning/pinJSONToIPFS"
    answer = (await client.post(url, json=body, headers=headers)).json()
    assert answer["IpfsHash"] == str(import_file(b'{"answer":42}').cid)
    assert set(answer) == {"IpfsHash", "PinSize", "Timestamp", "isDuplicate"}
    del body["pinataOptions"]
    assert (await client.post(url, json=body, headers=headers)).json()["IpfsHash"].startswith("Qm")
    assert (await client.post(url, json=body)).json()["error"]["reason"] == "INVALID_CREDENTIALS"


async def test_pinata_keeps_a_file_private_unless_it_is_told_otherwise(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    headers = {"Authorization": f"Bearer {network.pinata_jwt}"}
    found = []
    for network_name in ("", "public"):
        answer = await client.post(
            f"{network.pinata_url}/v3/files",
            files={"file": ("x", b"mine")},
            data={"network": network_name},
            headers=headers,
        )
        cid = answer.json()["data"]["cid"]
        found.append((await client.get(f"{network.gateway_url}/ipfs/{cid}?format=raw")).status_code)
    assert found == [404, 200]


def test_blocks_and_pins_stay_from_one_start_to_the_next(tmp_path: Path) -> None:
    with IpfsLocalnet(tmp_path) as first:
        cid = CID.parse(first.add(b"kept"))
        first.store.pin(cid)
    with IpfsLocalnet(tmp_path) as second:
        answer = httpx.get(f"{second.gateway_url}/ipfs/{cid}", trust_env=False)
        assert answer.content == b"kept"
        assert second.store.pins() == [cid]


def test_ports_may_be_fixed_and_a_taken_one_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            IpfsLocalnet(tmp_path, ports={"pinata": port}).start()
    with IpfsLocalnet(tmp_path, ports={"pinata": port}) as network:
        assert network.pinata_url == f"http://127.0.0.1:{port}"


def test_stopping_does_not_wait_for_answers_that_hang(tmp_path: Path) -> None:
    with IpfsLocalnet(tmp_path) as network:
        httpx.post(network.rpc_url + CONTROL_PATH, content=json.dumps({"hang_seconds": 600}), trust_env=False)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{network.rpc_url}/api/v0/version", timeout=0.1, trust_env=False)
        thread = network._thread
        assert thread is not None
        network.stop()
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb'),
        ("multipart/form-data; boundary=x", b"--x\r\nno headers\r\n--x--"),
    ],
)
def test_a_broken_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"boundary|cut short|headers"):
        parse_multipart(content_type, body)


def test_a_form_gives_its_parts_byte_for_byte() -> None:
    content = bytes(range(256)) + b"\r\n--y\r\n"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a b.bin"\r\n\r\n'
    [part] = parse_multipart('multipart/form-data; boundary="x"', head + content + b"\r\n--x--\r\n")
    assert (part.name, part.filename, part.content) == ("file", "a b.bin", content)


def test_content_added_to_the_network_has_the_cid_that_ipfs_add_would_give(network: IpfsLocalnet) -> None:
    assert network.add(b"x") == "bafkreibnoelefnzgwbcacyt4vh52ymxvzbjq7mmqhtcnwarfq4lzegsiqe"
    assert str(network.store.add(b"x", V0)) == "QmULKig5Fxrs2sC4qt9nNduucXfb92AFYQ6Hi3YRqDmrYC"


async def test_the_pinning_service_lists_only_what_is_pinned_unless_asked_otherwise_and_forgets_on_request(
    network: IpfsLocalnet, client: httpx.AsyncClient
) -> None:
    pins = f"{network.pinning_service_url}/pins"
    headers = {"Authorization": f"Bearer {network.pinata_jwt}"}
    cid = network.add(b"for the pinning service alone")
    accepted = await client.post(pins, headers=headers, json={"cid": cid, "name": "x"})
    assert (accepted.status_code, accepted.json()["status"]) == (202, "queued")
    one = f"{pins}/{accepted.json()['requestid']}"

    async def listed(**asked: str) -> int:
        count: int = (await client.get(pins, headers=headers, params={"cid": cid, **asked})).json()["count"]
        return count

    assert (await listed(), await listed(status="queued,pinning")) == (0, 1)
    statuses = [(await client.get(one, headers=headers)).json()["status"] for _ in range(2)]
    assert statuses == ["pinning", "pinned"]
    assert (await listed(), await listed(status="queued,pinning")) == (1, 0)
    assert (await client.delete(one, headers=headers)).status_code == 202
    assert (await client.get(one, headers=headers)).status_code == 404
    for bad in ({}, {"cid": "nonsense"}, {"cid": cid, "name": "x" * 256}):
        assert (await client.post(pins, headers=headers, json=bad)).status_code == 400
    assert (await client.get(pins)).json()["error"]["reason"] == "UNAUTHORIZED"
