"""The Pinning Service API: asked to fetch what we have named, asked until it has, and asked only once."""

from __future__ import annotations

import random
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from localnet.ipfs import Faults, IpfsLocalnet
from millrace.errors import Permanent
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import PublishFailed, PublishRefused
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.pinning_service import PinningService
from protocols.ipfs.service import NotFound
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState

Account = Callable[..., PinningService]


@pytest.fixture
def account(network: IpfsLocalnet, client: httpx.AsyncClient, records: UploadRecords, polling: PinPolling) -> Account:
    def open_account(token: str = network.pinata_jwt, seconds: float = 5.0) -> PinningService:
        return PinningService(
            network.pinning_service_url,
            SecretStr(token),
            client,
            records=records,
            polling=polling,
            timeout_seconds=seconds,
            clock=lambda: 1_700_000_000.0,
        )

    return open_account


@pytest.fixture
def service(account: Account) -> PinningService:
    return account()


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Content of this test's own: the service remembers what other tests asked for."""
    return random.Random(request.node.nodeid).randbytes(1000)


def asked(network: IpfsLocalnet) -> list[str]:
    return [f"{method} {path}" for method, path, _ in network.services["pinning_service"].requests]


async def test_content_that_is_in_the_network_gets_pinned_under_our_cid(
    network: IpfsLocalnet, service: PinningService, records: UploadRecords, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    published = await service.publish(cid, content, "result")
    assert (published.place, CID.parse(published.cid)) == ("pinning service", cid)
    assert cid in network.store.pins()
    record = records.find(cid, "pinning service")
    assert record is not None
    assert (record.state, record.requestid.startswith("pin-")) == ("pinned", True)
    assert asked(network)[0].startswith(f"GET /pins?cid={cid}&status=")


async def test_the_same_cid_is_not_pinned_twice_with_or_without_a_record(
    network: IpfsLocalnet, service: PinningService, records: UploadRecords, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    await service.publish(cid, content, "result")
    await service.publish(cid, content, "result")
    records._path(cid, service.name).unlink()
    await service.publish(cid, content, "result")
    assert [line for line in asked(network) if line.startswith("POST")] == ["POST /pins"]


async def test_a_request_that_is_still_on_its_way_is_followed_and_not_repeated(
    network: IpfsLocalnet, service: PinningService, account: Account, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    network.misbehave("pinning_service", Faults(never_pinned=True))
    with pytest.raises(PublishFailed, match="not pinned after 60 s"):
        await service.publish(cid, content, "result")
    network.misbehave("pinning_service")
    await account().publish(cid, content, "result")
    assert [line for line in asked(network) if line.startswith("POST")] == ["POST /pins"]


async def test_a_request_that_the_service_does_not_know_yet_is_asked_about_again(
    network: IpfsLocalnet, service: PinningService, content: bytes
) -> None:
    """Its 202 came from one server and the 404 from another that had not heard of it: that was final."""
    cid = CID.parse(network.add(content))
    network.misbehave("pinning_service", Faults(status=404, path="/pins/", times=2))
    assert (await service.publish(cid, content, "result")).place == "pinning service"
    assert [line for line in asked(network) if line.startswith("POST")] == ["POST /pins"]


async def test_a_request_that_the_service_never_knows_is_given_up_at_the_deadline(
    network: IpfsLocalnet, service: PinningService, content: bytes
) -> None:
    network.misbehave("pinning_service", Faults(status=404, path="/pins/"))
    with pytest.raises(PublishFailed, match="not pinned after 60 s"):
        await service.publish(CID.parse(network.add(content)), content, "result")


async def test_a_pin_that_failed_says_why_and_is_replaced_next_time(
    network: IpfsLocalnet, service: PinningService, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    network.misbehave("pinning_service", Faults(pin_error="no provider found"))
    with pytest.raises(PublishFailed, match="no provider found"):
        await service.publish(cid, content, "result")
    network.misbehave("pinning_service")
    await service.publish(cid, content, "result")
    first, second = [line for line in asked(network) if line.startswith("POST")]
    assert first == "POST /pins"
    assert second.startswith("POST /pins/pin-")


async def test_content_that_nobody_provides_is_never_done(service: PinningService, content: bytes) -> None:
    with pytest.raises(PublishFailed, match="could not pin"):
        await service.publish(CID.of(content, RAW), content, "result")


async def test_a_service_that_speaks_of_another_cid_is_not_believed(
    network: IpfsLocalnet, service: PinningService, content: bytes
) -> None:
    network.misbehave("pinning_service", Faults(other_cid=True))
    with pytest.raises(PublishRefused, match="speaks of"):
        await service.publish(CID.parse(network.add(content)), content, "result")


async def test_a_record_of_what_the_service_has_forgotten_is_no_obstacle(
    network: IpfsLocalnet, service: PinningService, records: UploadRecords, content: bytes
) -> None:
    cid = CID.parse(network.add(content))
    records.note(Upload.of(cid, content, service.name), UploadState.pinned, "../gone")
    await service.publish(cid, content, "result")
    assert asked(network)[0] == "GET /pins/../gone"
    assert cid in network.store.pins()


ERRORS = {
    400: PublishRefused,
    401: PublishRefused,
    403: PublishRefused,
    404: NotFound,
    409: PublishRefused,
    422: PublishRefused,
    429: PublishFailed,
    500: PublishFailed,
    503: PublishFailed,
}


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
async def test_every_error_of_the_api_is_told_apart_with_what_it_says(
    network: IpfsLocalnet, service: PinningService, content: bytes, status: int, kind: type[Exception]
) -> None:
    faults = Faults(status=status, reason="INSUFFICIENT_FUNDS", headers={"Retry-After": "7"})
    network.misbehave("pinning_service", faults)
    with pytest.raises(kind) as caught:
        await service.publish(CID.parse(network.add(content)), content, "result")
    if status not in (401, 403):
        assert "INSUFFICIENT_FUNDS" in str(caught.value)
    if status == 409:
        assert "pay" in str(caught.value)
    if status in (401, 403):
        assert "MILLRACE_IPFS__PINNING_SERVICE_TOKEN" in str(caught.value)
    if isinstance(caught.value, PublishFailed):
        assert caught.value.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    "faults",
    [Faults(html=True), Faults(cut=True), Faults(hang_seconds=30), Faults(drip_seconds=0.1), Faults(status=502)],
    ids=["page", "cut", "hang", "drip", "error"],
)
async def test_a_service_that_breaks_off_is_worth_another_try(
    network: IpfsLocalnet, account: Account, content: bytes, faults: Faults
) -> None:
    cid = CID.parse(network.add(content))
    network.misbehave("pinning_service", faults)
    with pytest.raises(PublishFailed):
        await account(seconds=0.3).publish(cid, content, "result")
    network.misbehave("pinning_service")
    await account().publish(cid, content, "result")


async def test_the_token_is_checked_and_shown_nowhere(account: Account) -> None:
    assert await account().check() == ""
    with pytest.raises(PublishRefused) as caught:
        await account("a-secret-token").check()
    assert "a-secret-token" not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize(
    "url", ["http://pins.example", "ftp://pins.example", "https://", "https://user:pass@pins.example", "https://[::1"]
)
def test_the_token_goes_only_to_a_plain_https_address(
    client: httpx.AsyncClient, records: UploadRecords, polling: PinPolling, url: str
) -> None:
    with pytest.raises(Permanent) as caught:
        PinningService(url, SecretStr("x"), client, records=records, polling=polling)
    assert "user:pass" not in str(caught.value)


async def test_polling_waits_longer_and_longer_and_as_long_as_it_is_told() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    answers: list[PublishFailed | None] = [None, None, PublishFailed("busy", retry_after_seconds=40.0), None, None]

    async def ask() -> str | None:
        if not answers:
            return "pinned"
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return None

    polling = PinPolling(1000.0, clock=lambda: 0.0, sleep=sleep, jitter=lambda: 0.0)
    assert await polling.until_told(ask, "it") == "pinned"
    assert waits == [1.0, 2.0, 40.0, 8.0, 10.0]
