"""The stand-in for a crate registry, as an HTTP client sees it; cargo itself speaks to it in the tests of compiling."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterator

import httpx
import pytest

from localnet.crates import SAMPLES, Crate, CratesLocalnet, Fault, index_path


@pytest.fixture
def registry() -> Iterator[CratesLocalnet]:
    with CratesLocalnet() as registry:
        registry.publish(*SAMPLES)
        yield registry


@pytest.fixture
def client(registry: CratesLocalnet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=registry.url, timeout=10) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "path"),
    [("a", "1/a"), ("ab", "2/ab"), ("abc", "3/a/abc"), ("abcd", "ab/cd/abcd"), ("Serde_JSON", "se/rd/serde_json")],
)
def test_where_a_crate_is_in_the_index(name: str, path: str) -> None:
    """The five examples are those of cargo's own documentation, or like them."""
    assert index_path(name) == path


def test_the_index_leads_to_an_archive_that_is_what_it_says(registry: CratesLocalnet, client: httpx.Client) -> None:
    config = client.get("/index/config.json").json()
    lines = [json.loads(line) for line in client.get("/index/do/ub/doubler").text.splitlines()]
    assert [(line["name"], line["vers"], line["deps"][0]["name"]) for line in lines] == [("doubler", "0.3.1", "adder")]
    url = config["dl"].replace("{crate}", "doubler").replace("{version}", "0.3.1")
    archive = client.get(url).content
    assert hashlib.sha256(archive).hexdigest() == lines[0]["cksum"]
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        assert tar.getnames() == ["doubler-0.3.1/Cargo.toml", "doubler-0.3.1/src/lib.rs"]


def test_the_samples_are_what_their_names_say(client: httpx.Client) -> None:
    adders = [json.loads(line) for line in client.get("/index/ad/de/adder").text.splitlines()]
    assert {line["vers"]: line["yanked"] for line in adders} == {"1.2.0": False, "1.3.0": True}
    wrong = json.loads(client.get("/index/wr/on/wrong-checksum").text)
    archive = client.get("/crates/wrong-checksum/1.0.0/download").content
    assert hashlib.sha256(archive).hexdigest() != wrong["cksum"]


def test_what_did_not_change_is_not_sent_again(registry: CratesLocalnet, client: httpx.Client) -> None:
    first = client.get("/index/ad/de/adder")
    asked = {"if-none-match": first.headers["etag"]}
    again = client.get("/index/ad/de/adder", headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    registry.publish(Crate("adder", "1.4.0"))
    assert client.get("/index/ad/de/adder", headers=asked).status_code == 200


def test_what_is_not_there_is_404_and_what_was_there_is_410(registry: CratesLocalnet, client: httpx.Client) -> None:
    assert client.get("/index/no/su/no-such").status_code == 404
    assert client.get("/crates/adder/9.9.9/download").status_code == 404
    assert client.get("/elsewhere").status_code == 404
    assert client.post("/index/ad/de/adder").status_code == 405
    registry.remove("adder")
    assert client.get("/index/ad/de/adder").status_code == 410
    registry.publish(Crate("adder", "1.0.0"))
    assert client.get("/index/ad/de/adder").status_code == 200


def test_faults_meet_what_they_were_added_for(registry: CratesLocalnet, client: httpx.Client) -> None:
    registry.faults.add("download", Fault(1, "corrupt"))
    registry.faults.add("index", Fault(1, status=500))
    good = SAMPLES[0].archive()
    bad = client.get("/crates/adder/1.2.0/download").content
    assert len(bad) == len(good)
    assert bad != good
    assert client.get("/crates/adder/1.2.0/download").content == good
    assert client.get("/index/ad/de/adder").status_code == 500
    assert client.get("/index/ad/de/adder").status_code == 200
    registry.faults.add("config", Fault(1, "cut"))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/index/config.json")


def test_waiting_for_a_request_ends_with_it_or_with_its_time(registry: CratesLocalnet, client: httpx.Client) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        registry.wait_for("GET /index/config.json", 0.05)
    assert time.monotonic() - began < 5
    client.get("/index/config.json")
    registry.wait_for("GET /index/config.json", 0.05)


def test_the_same_crate_is_the_same_bytes() -> None:
    assert [crate.archive() for crate in SAMPLES] == [crate.archive() for crate in SAMPLES]
