"""Pinata: our exact bytes under our exact CID or no result, and a token that goes nowhere else."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import Permanent
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import PublishFailed, PublishRefused
from protocols.ipfs.importer import import_file
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.pinata import Pinata
from protocols.ipfs.profiles import V0, V1
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState

SMALL = b'{"stdout":"42\\n"}'
LARGE = random.Random(9).randbytes(600_000)


Account = Callable[..., Pinata]


@pytest.fixture
def account(network: IpfsLocalnet, client: httpx.AsyncClient, records: UploadRecords, polling: PinPolling) -> Account:
    def open_account(jwt: str = network.pinata_jwt, seconds: float = 5.0) -> Pinata:
        return Pinata(
            SecretStr(jwt),
            client,
            records=records,
            polling=polling,
            api_url=network.pinata_url,
            timeout_seconds=seconds,
            clock=lambda: 1_700_000_000.0,
        )

    return open_account


@pytest.fixture
def pinata(account: Account) -> Pinata:
    return account()


def sent(network: IpfsLocalnet) -> list[str]:
    """Paths of the uploads that arrived."""
    return [path for method, path, _ in network.services["pinata"].requests if method == "POST"]


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_published_content_is_in_the_network_under_our_cid(
    network: IpfsLocalnet, pinata: Pinata, content: bytes
) -> None:
    cid = import_file(content).cid
    published = await pinata.publish(cid, content, "result.json")
    assert CID.parse(published.cid) == cid
    assert network.store.read(cid) == content
    assert cid in network.store.pins()
    assert await pinata.publish(cid, content, "result.json") == published


async def test_one_block_goes_as_a_file_and_more_go_as_a_car(network: IpfsLocalnet, pinata: Pinata) -> None:
    for content in (SMALL, LARGE):
        await pinata.publish(import_file(content).cid, content, "result.json")
    assert sent(network) == ["/pinning/pinFileToIPFS", "/v3/files"]


async def test_a_name_of_any_kind_is_only_a_label(network: IpfsLocalnet, pinata: Pinata) -> None:
    for name in ("", 'quote " and \r\n newline', "../../etc/passwd", "ö" * 500):
        assert (await pinata.publish(import_file(SMALL).cid, SMALL, name)).place == "pinata"


async def test_the_token_is_checked(account: Account, pinata: Pinata) -> None:
    assert await pinata.check() == ""
    with pytest.raises(PublishRefused) as caught:
        await account("wrong-secret-token").check()
    assert "MILLRACE_IPFS__PINATA_JWT" in caught.value.hint
    assert "wrong-secret-token" not in str(caught.value)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["file", "car"])
async def test_another_cid_than_ours_is_no_result(network: IpfsLocalnet, pinata: Pinata, content: bytes) -> None:
    network.misbehave("pinata", Faults(other_cid=True))
    with pytest.raises(PublishRefused, match="not what we sent"):
        await pinata.publish(import_file(content).cid, content, "result")


async def test_a_version_0_spelling_of_our_cid_is_ours(pinata: Pinata) -> None:
    cid = import_file(LARGE, V1).cid
    assert (await pinata.publish(CID(0, cid.codec, cid.hash_code, cid.digest), LARGE, "result")).place == "pinata"


async def test_content_under_a_name_that_is_not_its_own_is_refused(network: IpfsLocalnet, pinata: Pinata) -> None:
    with pytest.raises(PublishRefused):
        await pinata.publish(import_file(LARGE, V0).cid, LARGE, "result")
    with pytest.raises(PublishRefused):
        await pinata.publish(CID.of(b"other", RAW), SMALL, "result")


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "12"}, 12.0), ({"X-RateLimit-Reset": "1700000005"}, 5.0), ({}, None)]
)
async def test_too_many_requests_are_honoured(
    network: IpfsLocalnet, pinata: Pinata, headers: dict[str, str], seconds: float | None
) -> None:
    network.misbehave("pinata", Faults(status=429, headers=headers, times=1))
    with pytest.raises(PublishFailed) as caught:
        await pinata.publish(import_file(SMALL).cid, SMALL, "result")
    assert caught.value.retry_after_seconds == seconds
    assert await pinata.publish(import_file(SMALL).cid, SMALL, "result")


TEMPORARY = {
    "error": Faults(status=500),
    "gateway": Faults(status=502),
    "cut": Faults(cut=True),
    "page": Faults(html=True),
    "hang": Faults(hang_seconds=30),
    "drip": Faults(drip_seconds=0.05),
}
FOR_GOOD = {
    "unauthorized": Faults(status=401),
    "forbidden": Faults(status=403),
    "bad request": Faults(status=400),
    "redirect": Faults(redirect_to="http://127.0.0.1:9/"),
    "compressed": Faults(gzip=True),
}


@pytest.mark.parametrize("faults", TEMPORARY.values(), ids=TEMPORARY)
async def test_a_temporary_fault_is_worth_another_try(network: IpfsLocalnet, account: Account, faults: Faults) -> None:
    network.misbehave("pinata", faults)
    with pytest.raises(PublishFailed):
        await account(seconds=0.3).publish(import_file(SMALL).cid, SMALL, "result")


@pytest.mark.parametrize("faults", FOR_GOOD.values(), ids=FOR_GOOD)
async def test_a_refusal_is_not_worth_another_try(network: IpfsLocalnet, pinata: Pinata, faults: Faults) -> None:
    network.misbehave("pinata", faults)
    with pytest.raises(PublishRefused):
        await pinata.publish(import_file(SMALL).cid, SMALL, "result")


async def test_the_token_does_not_follow_a_redirect(network: IpfsLocalnet, pinata: Pinata) -> None:
    network.misbehave("pinata", Faults(redirect_to=f"{network.gateway_url}/pinning/pinFileToIPFS"))
    with pytest.raises(PublishRefused):
        await pinata.publish(import_file(SMALL).cid, SMALL, "result")
    assert len(network.services["gateway"].requests) == 0


async def test_a_redirect_to_what_is_no_url_is_worth_another_try(network: IpfsLocalnet, pinata: Pinata) -> None:
    """httpx reads a Location even where it does not follow it, and its error for this one is none of HTTP's."""
    network.misbehave("pinata", Faults(redirect_to="mailto:x"))
    with pytest.raises(PublishFailed, match="InvalidURL"):
        await pinata.publish(import_file(SMALL).cid, SMALL, "result")


@pytest.mark.parametrize("url", ["http://api.pinata.cloud", "http://10.0.0.1", "ftp://x"])
def test_the_token_is_not_sent_in_the_open(
    client: httpx.AsyncClient, records: UploadRecords, polling: PinPolling, url: str
) -> None:
    with pytest.raises(Permanent, match="https"):
        Pinata(SecretStr("secret"), client, records=records, polling=polling, api_url=url)


async def test_file_uploads_go_to_the_api_host_and_cars_to_the_uploads_host(
    records: UploadRecords, polling: PinPolling
) -> None:
    seen: list[str] = []
    for content in (SMALL, LARGE):
        cid = import_file(content).cid

        async def answer(request: httpx.Request, cid: CID = cid) -> httpx.Response:
            if request.method == "POST":
                seen.append(f"{request.url.host} {request.headers['Authorization']}")
            row = {"cid": str(cid), "ipfs_pin_hash": str(cid)}
            body = {"IpfsHash": str(cid), "data": {"cid": str(cid), "files": [row]}, "rows": [row]}
            return httpx.Response(200, stream=httpx.ByteStream(json.dumps(body).encode()))

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            pinata = Pinata(SecretStr("a-secret"), client, records=records, polling=polling)
            await pinata.publish(cid, content, "result")
    assert seen == ["api.pinata.cloud Bearer a-secret", "uploads.pinata.cloud Bearer a-secret"]


@pytest.mark.parametrize("body", ["[]", "{}", '{"IpfsHash":7}', '{"IpfsHash":"nonsense"}', "null"])
async def test_an_answer_without_a_cid_is_no_result(records: UploadRecords, polling: PinPolling, body: str) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(body.encode()))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        pinata = Pinata(SecretStr("a-secret"), client, records=records, polling=polling)
        with pytest.raises(PublishRefused, match=r"no (CID|IpfsHash)"):
            await pinata.publish(import_file(SMALL).cid, SMALL, "result")


async def test_an_answer_of_brackets_within_brackets_is_worth_another_try(
    records: UploadRecords, polling: PinPolling
) -> None:
    """Pins a RecursionError, which is no ValueError."""

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"[" * 60_000))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        pinata = Pinata(SecretStr("a-secret"), client, records=records, polling=polling)
        with pytest.raises(PublishFailed):
            await pinata.publish(import_file(SMALL).cid, SMALL, "result")


def test_the_token_is_not_shown_when_the_account_is_printed(account: Account) -> None:
    shown = vars(account("a-secret-token"))
    assert "a-secret-token" not in repr([shown, *map(vars, (shown["_service"],))])


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["file", "car"])
async def test_what_was_sent_is_on_record_and_not_sent_again(
    network: IpfsLocalnet, pinata: Pinata, account: Account, records: UploadRecords, content: bytes
) -> None:
    content = content + b"sent"  # the network keeps the pins of other tests
    cid = import_file(content).cid
    await pinata.publish(cid, content, "result")
    record = records.find(cid, "pinata")
    assert record is not None
    assert (record.cid, record.size, record.service, record.state) == (str(cid), len(content), "pinata", "pinned")
    assert record.profile == ("raw" if cid.codec == RAW else "v1-raw-256k-174")
    await account().publish(cid, content, "result")
    assert len(sent(network)) == 1


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["file", "car"])
async def test_what_may_have_arrived_is_asked_for_before_it_is_sent_again(
    network: IpfsLocalnet, pinata: Pinata, content: bytes
) -> None:
    """The upload arrived and its answer was lost."""
    content = content + b"arrived"  # the network keeps the pins of other tests
    cid = import_file(content).cid
    network.misbehave("pinata", Faults(cut=True, times=1))
    with pytest.raises(PublishFailed):
        await pinata.publish(cid, content, "result")
    assert (await pinata.publish(cid, content, "result")).place == "pinata"
    assert len(sent(network)) == 1


def _at_work(times: int) -> Faults:
    """The record of a file whose CID is not known yet."""
    record = base64.b64encode(b'{"data":{"id":"x","cid":null}}').decode()
    return Faults(answer_base64=record, answer_type="application/json", path="/v3/files/public/", times=times)


async def test_a_file_that_pinata_is_still_at_work_on_is_asked_about_again(
    network: IpfsLocalnet, pinata: Pinata
) -> None:
    content = LARGE + b"at work"  # the network keeps the pins of other tests
    network.misbehave("pinata", _at_work(2))
    assert (await pinata.publish(import_file(content).cid, content, "result")).place == "pinata"
    assert len(sent(network)) == 1


async def test_a_file_that_pinata_never_ends_to_work_on_is_given_up_at_the_deadline(
    network: IpfsLocalnet, pinata: Pinata
) -> None:
    content = LARGE + b"at work for ever"
    network.misbehave("pinata", _at_work(-1))
    with pytest.raises(PublishFailed, match="not pinned after 60 s"):
        await pinata.publish(import_file(content).cid, content, "result")


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["file", "car"])
async def test_what_pinata_lost_is_sent_again(
    network: IpfsLocalnet, pinata: Pinata, records: UploadRecords, content: bytes
) -> None:
    content = content + b"lost"  # the network keeps the pins of other tests
    cid = import_file(content).cid
    records.note(Upload.of(cid, content, "pinata"), UploadState.pinned, "an-id-long-gone")
    await pinata.publish(cid, content, "result")
    assert len(sent(network)) == 1
    assert cid in network.store.pins()


async def test_a_token_that_may_only_pin_is_believed_what_the_upload_was_told(
    network: IpfsLocalnet, pinata: Pinata, caplog: pytest.LogCaptureFixture
) -> None:
    network.misbehave("pinata", Faults(status=403, path="/data/pinList"))
    assert "may not list" in await pinata.check()
    await pinata.publish(import_file(SMALL).cid, SMALL, "result")
    assert "may not list" in caplog.text
