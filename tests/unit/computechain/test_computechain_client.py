"""The RPC client against the local node, which has the real one's rules and misbehaves on request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from localnet.computechain import ComputeChainLocalnet
from millrace.errors import Declined, Permanent, Transient
from protocols.computechain.block import check_block
from protocols.computechain.endpoint import Unreadable
from protocols.computechain.keys import ComputeKey
from protocols.computechain.refusals import LookFirst, Refused, refusal
from protocols.computechain.rpc import ComputeChainRpc, SendUnanswered
from protocols.computechain.transaction import ComputeResult, Transaction, submit_result

KEY = ComputeKey(b"\x01" * 32)
RESULT = ComputeResult(
    task_id="t", worker_address=KEY.address, result_hash="ab" * 32, proof='{"v":1}', nonce=0, signature=""
)


def sent(nonce: int, gas_price: int = 1_000) -> Transaction:
    return submit_result(KEY, RESULT, nonce=nonce, gas_price=gas_price)


@pytest.fixture
def net() -> Iterator[ComputeChainLocalnet]:
    with ComputeChainLocalnet() as running:
        running.chain.freeze()
        running.chain.fund(KEY.address, 10**18)
        yield running


@pytest.fixture
async def rpc(net: ComputeChainLocalnet) -> AsyncIterator[ComputeChainRpc]:
    async with ComputeChainRpc([net.url], timeout_seconds=2) as client:
        yield client


async def test_a_result_lands_and_is_found_in_a_block_that_fits_together(
    net: ComputeChainLocalnet, rpc: ComputeChainRpc
) -> None:
    assert await rpc.balance(KEY.address) == 10**18
    transaction = sent(0)
    await rpc.send(transaction)
    assert (await rpc.nonce(KEY.address, pending=True), await rpc.nonce(KEY.address, pending=False)) == (1, 0)
    height = net.chain.make_block()
    block = await rpc.block(height)
    assert block is not None
    check_block(block)
    assert [one.hash for one in block.transactions] == [transaction.hash]
    status = await rpc.status()
    assert (status.height, status.last_hash, status.network) == (height, block.hash, "devnet")
    assert await rpc.nonce(KEY.address, pending=False) == 1
    assert await rpc.balance(KEY.address) == 10**18 - 80_000_000
    receipt = await rpc.receipt(transaction.hash)
    assert receipt is not None
    assert (receipt.status, receipt.block_height) == ("confirmed", height)


async def test_what_is_not_there_is_none(rpc: ComputeChainRpc) -> None:
    assert await rpc.block(10_000) is None
    assert await rpc.receipt("00" * 32) is None
    assert await rpc.balance("cpc1nobody/../?x=1#y") == 0


async def test_the_same_bytes_may_be_sent_again(rpc: ComputeChainRpc) -> None:
    await rpc.send(sent(0))
    await rpc.send(sent(0))


async def test_a_used_nonce_is_to_be_looked_up_first(net: ComputeChainLocalnet, rpc: ComputeChainRpc) -> None:
    await rpc.send(sent(0))
    net.chain.make_block()
    with pytest.raises(LookFirst):
        await rpc.send(sent(0))


async def test_a_rejection_is_one_although_it_comes_with_status_200(rpc: ComputeChainRpc) -> None:
    with pytest.raises(Refused, match="gas_price 1 < min 1000") as caught:
        await rpc.send(sent(0, gas_price=1))
    assert "GAS_PRICE" in caught.value.hint
    forged = sent(0).model_copy(update={"signature": "00" * 64})
    with pytest.raises(Refused, match="invalid_signature"):
        await rpc.send(forged)
    poor = ComputeKey(b"\x02" * 32)
    result = RESULT.model_copy(update={"worker_address": poor.address})
    with pytest.raises(Declined) as declined:
        await rpc.send(submit_result(poor, result, nonce=0, gas_price=1_000))
    assert declined.value.reason == "too_poor"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("mempool_full", Transient),
        ("sender_limit_exceeded", Transient),
        ("queued_limit_exceeded", Transient),
        ("nonce_too_low", LookFirst),
        ("insufficient_balance", Declined),
        ("fee 1 < needed_fee 80000000", Refused),
        ("gas_limit 1 < base_gas 80000", Refused),
        ("unknown_tx_type", Refused),
        ("missing_sig_or_key", Refused),
        ("pub_key_mismatch", Refused),
        ("invalid_key_format: odd-length string", Refused),
        ("crypto_error: bad point", Refused),
        ("transfer_amount_zero", Refused),
        ("something\x1b[31m new", Refused),
        ("", Refused),
    ],
)
def test_each_of_the_nodes_words_has_its_error(words: str, kind: type[Exception]) -> None:
    error = refusal(words)
    assert type(error) is kind
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("fault", ["status", "hang", "reset", "malformed", "other_json", "cut", "gzip_bomb", "endless"])
async def test_a_node_that_misbehaves_is_asked_again_later(
    net: ComputeChainLocalnet, rpc: ComputeChainRpc, fault: str
) -> None:
    net.chain.fail("*", kind=fault, times=1)
    with pytest.raises(Transient):
        await rpc.status()
    assert (await rpc.status()).height >= 0


async def test_the_nodes_wish_to_wait_is_passed_on(net: ComputeChainLocalnet, rpc: ComputeChainRpc) -> None:
    net.chain.fail("*", kind="status", times=1, status=429, retry_after_seconds=7)
    with pytest.raises(Transient) as caught:
        await rpc.status()
    assert caught.value.retry_after_seconds == 7


async def test_another_node_is_asked_when_the_first_fails(net: ComputeChainLocalnet) -> None:
    async with ComputeChainRpc(["http://127.0.0.1:9", net.url], timeout_seconds=2) as rpc:
        assert (await rpc.status()).network == "devnet"
        await rpc.send(sent(0))
    assert net.chain.make_block() > 0


@pytest.mark.parametrize("fault", ["hang", "reset", "lost_reply"])
async def test_a_send_without_an_answer_is_unknown_and_not_a_failure(
    net: ComputeChainLocalnet, rpc: ComputeChainRpc, fault: str
) -> None:
    net.chain.fail("*", kind=fault, times=1)
    with pytest.raises(SendUnanswered):
        await rpc.send(sent(0))
    assert await rpc.nonce(KEY.address, pending=True) == (1 if fault == "lost_reply" else 0)


async def test_a_node_that_answers_with_another_block_is_not_believed(
    net: ComputeChainLocalnet, rpc: ComputeChainRpc
) -> None:
    net.chain.fail("*", kind="other_json", times=1)
    with pytest.raises(Unreadable):
        await rpc.block(0)


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:8000", "http://"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(Permanent, match="not an http or https URL"):
        ComputeChainRpc([url])


def test_no_node_at_all_is_refused_with_the_settings_name() -> None:
    with pytest.raises(Permanent) as caught:
        ComputeChainRpc([])
    assert "MILLRACE_COMPUTECHAIN__RPC_URLS" in caught.value.hint
