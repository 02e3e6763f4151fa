"""The RPC client against the local node, which checks what it is sent and misbehaves on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from near_requests import DONE, requested, signed

from localnet.near import OPERATOR, Dialect, NearLocalnet
from millrace.errors import Declined, Permanent, Transient
from protocols.http_json import Unreadable
from protocols.near.answers import WaitUntil
from protocols.near.contract_views import Contract
from protocols.near.keys import NearKey, hash_bytes
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import (
    ContractRefused,
    EndpointRefused,
    ExecutionFailed,
    LookFirst,
    NotTaken,
    RequestRefused,
    SendUnanswered,
    TransactionRefused,
    UnknownAccessKey,
    UnknownBlock,
)
from protocols.near.transactions import FunctionCall, SignedTransaction, Transaction

CANCEL = FunctionCall("cancel_stale_execution", b'{"request_id":0}', 10**13)


@pytest.fixture
def net() -> Iterator[NearLocalnet]:
    with NearLocalnet(Dialect.head, wait_seconds=0.1) as running:
        running.chain.freeze()
        yield running


async def test_status_block_account_and_key(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.make_block(3)
    status = await rpc.status()
    assert (status.chain_id, status.sync_info.latest_block_height) == ("localnet", 1003)
    head = await rpc.block()
    assert (await rpc.block(1003)).header == (await rpc.block(head.header.hash)).header == head.header
    assert (await rpc.block(1002)).header.hash == head.header.prev_hash
    assert (await rpc.view_account(OPERATOR)).amount == net.chain.balance(OPERATOR) == 100 * 10**24
    key = await rpc.view_access_key(OPERATOR, net.operator.public_key)
    assert (key.nonce, key.permission, key.block_hash) == (1000 * 10**6, "FullAccess", head.header.hash)


async def test_what_is_not_there_is_said_to_be(net: NearLocalnet, rpc: NearRpc) -> None:
    with pytest.raises(UnknownAccessKey):
        await rpc.view_access_key(OPERATOR, NearKey(b"\x09" * 32).public_key)
    with pytest.raises(UnknownAccessKey):
        await rpc.view_account("nobody.test.near")
    with pytest.raises(UnknownBlock):
        await rpc.block(999_999)
    with pytest.raises(RequestRefused):
        await rpc.call_function(OPERATOR, "get_config")
    with pytest.raises(ContractRefused, match="no method"):
        await rpc.call_function(net.contract_id, "get_nothing")
    assert await rpc.tx("1" * 32, OPERATOR) is None


async def test_a_transaction_lands_and_is_looked_up(net: NearLocalnet, rpc: NearRpc) -> None:
    request, _ = await requested(net)
    sent = await signed(net, rpc, Contract(rpc, net.contract_id, net.dialect).resolve_calls(request, DONE))
    assert (await rpc.send_tx(sent, WaitUntil.none)).reached is WaitUntil.none
    assert await rpc.tx(sent.hash, OPERATOR) is None
    net.chain.make_block()
    pending = await rpc.tx(sent.hash, OPERATOR)
    assert pending is not None
    assert not pending.succeeded
    assert pending.failure is None
    net.chain.make_block()
    found = await rpc.tx(sent.hash, OPERATOR)
    assert found is not None
    assert found.succeeded
    assert found.reached.is_executed
    assert found.fee_yocto == 100 * 10**24 - net.chain.balance(OPERATOR) > 0


async def test_waiting_for_the_execution_gives_its_result() -> None:
    with NearLocalnet(block_seconds=0.05) as running:
        async with NearRpc([running.url]) as rpc:
            request, _ = await requested(running)
            contract = Contract(rpc, running.contract_id, running.dialect)
            found = await rpc.send_tx(await signed(running, rpc, contract.resolve_calls(request, DONE)))
    assert found.succeeded
    assert found.logs == ["Resolving execution for request_id: 0"]


async def test_a_failed_execution_is_a_failure() -> None:
    """The public worker counts it as a success: `Failure` is no RPC error."""
    with NearLocalnet(block_seconds=0.05) as running:
        async with NearRpc([running.url]) as rpc:
            sent = await signed(running, rpc, (CANCEL,))
            with pytest.raises(ExecutionFailed, match="Execution request not found") as caught:
                await rpc.send_tx(sent)
            assert caught.value.words == "Smart contract panicked: Execution request not found"
            found = await rpc.tx(sent.hash, OPERATOR)
            assert found is not None
            assert isinstance(found.failure, ExecutionFailed)


async def test_a_time_out_is_unknown_and_the_same_bytes_land_once(net: NearLocalnet, rpc: NearRpc) -> None:
    sent = await signed(net, rpc, (CANCEL,))
    with pytest.raises(SendUnanswered, match="TIMEOUT_ERROR"):
        await rpc.send_tx(sent)
    with pytest.raises(SendUnanswered):
        await rpc.send_tx(sent)
    net.chain.make_block(3)
    found = await rpc.tx(sent.hash, OPERATOR)
    assert found is not None
    assert found.failure is not None
    with pytest.raises(LookFirst) as caught:
        await rpc.send_tx(sent)
    assert caught.value.reason == "InvalidNonce"


@pytest.mark.parametrize("fault", ["hang", "reset", "lost_reply", "malformed", "other_json", "cut", "status"])
async def test_a_send_without_an_answer_is_unknown_and_not_a_failure(
    net: NearLocalnet, rpc: NearRpc, fault: str
) -> None:
    net.chain.fail("send_tx", kind=fault)
    sent = await signed(net, rpc, (CANCEL,))
    with pytest.raises(SendUnanswered):
        await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block()
    taken = await rpc.tx(sent.hash, OPERATOR) is not None
    assert taken == (fault in ("lost_reply", "cut"))


@pytest.mark.parametrize("fault", ["status", "hang", "reset", "malformed", "other_json", "cut", "gzip_bomb", "endless"])
async def test_a_node_that_misbehaves_is_asked_again_later(net: NearLocalnet, rpc: NearRpc, fault: str) -> None:
    net.chain.fail("*", kind=fault)
    with pytest.raises(Transient):
        await rpc.status()
    assert (await rpc.status()).chain_id == "localnet"


async def test_the_nodes_wish_to_wait_is_passed_on(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.fail("*", status=429, retry_after_seconds=7)
    with pytest.raises(Transient) as caught:
        await rpc.status()
    assert caught.value.retry_after_seconds == 7


async def test_another_node_is_asked_when_the_first_fails(net: NearLocalnet) -> None:
    async with NearRpc(["http://127.0.0.1:9", net.url], timeout_seconds=2, send_timeout_seconds=2) as rpc:
        assert (await rpc.status()).chain_id == "localnet"
        await rpc.send_tx(await signed(net, rpc, (CANCEL,)), WaitUntil.none)


async def test_a_node_that_refuses_us_is_passed_over_and_the_refusal_told_if_it_is_the_only_one(
    net: NearLocalnet, rpc: NearRpc
) -> None:
    net.chain.fail("status", status=401)
    with pytest.raises(EndpointRefused):
        await rpc.status()
    net.chain.fail("status", status=401)
    async with NearRpc([net.url, net.url]) as twice:
        assert (await twice.status()).chain_id == "localnet"


async def test_a_refusal_after_a_lost_reply_is_no_refusal(net: NearLocalnet) -> None:
    """The first node may have taken what the second refuses, and a refusal lets the worker sign anew."""
    with NearLocalnet() as other:
        other.chain.reject_next("InvalidSignature")
        net.chain.fail("send_tx", kind="lost_reply")
        async with NearRpc([net.url, other.url], timeout_seconds=2, send_timeout_seconds=2) as rpc:
            sent = await signed(net, rpc, (CANCEL,))
            with pytest.raises(SendUnanswered, match="InvalidSignature"):
                await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block()
    assert net.chain.included(sent.hash) is not None


async def test_a_busy_network_takes_nothing(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.reject_next({"ShardCongested": {"shard_id": 0, "congestion_level": 1.0}})
    with pytest.raises(NotTaken):
        await rpc.send_tx(await signed(net, rpc, (CANCEL,)))


async def test_the_chain_checks_signature_nonce_and_block_hash(net: NearLocalnet, rpc: NearRpc) -> None:
    good = await signed(net, rpc, (CANCEL,))
    with pytest.raises(TransactionRefused, match="InvalidSignature"):
        await rpc.send_tx(SignedTransaction(good.transaction, bytes(64)))

    async def send(**change: object) -> None:
        await rpc.send_tx(replace(good.transaction, **change).signed_by(net.operator))

    with pytest.raises(LookFirst, match="InvalidNonce"):
        await send(nonce=good.transaction.nonce - 1)
    with pytest.raises(LookFirst, match="Expired"):
        await send(block_hash=bytes(32))
    with pytest.raises(TransactionRefused, match="NonceTooLarge"):
        await send(nonce=10**12)
    with pytest.raises(TransactionRefused, match="SignerDoesNotExist"):
        await send(signer_id="nobody.near")
    with pytest.raises(Declined):
        await send(calls=(replace(CANCEL, deposit_yocto=10**27),))


async def test_an_old_block_hash_expires() -> None:
    with NearLocalnet(validity_blocks=5) as running:
        running.chain.freeze()
        async with NearRpc([running.url], timeout_seconds=2) as rpc:
            sent = await signed(running, rpc, (CANCEL,))
            running.chain.make_block(6)
            with pytest.raises(LookFirst) as caught:
                await rpc.send_tx(sent)
    assert caught.value.reason == "Expired"


async def test_a_restricted_key_can_resolve_and_nothing_else(net: NearLocalnet, rpc: NearRpc) -> None:
    lane = NearKey(b"\x05" * 32)
    net.chain.add_key(OPERATOR, lane.public_key, net.contract_id, ["resolve_execution"], 10**24)
    key = await rpc.view_access_key(OPERATOR, lane.public_key)
    request, _ = await requested(net)
    block_hash = hash_bytes((await rpc.block()).header.hash)

    def of(*calls: FunctionCall, receiver: str = net.contract_id) -> SignedTransaction:
        plain = Transaction(OPERATOR, lane.public_bytes, key.nonce + 1, receiver, block_hash, calls)
        return plain.signed_by(lane)

    for wrong, why in (
        (of(CANCEL), "MethodNameMismatch"),
        (of(CANCEL, receiver="other.near"), "ReceiverMismatch"),
        (of(replace(CANCEL, deposit_yocto=1)), "DepositWithFunctionCall"),
    ):
        with pytest.raises(TransactionRefused, match=why):
            await rpc.send_tx(wrong)
    calls = Contract(rpc, net.contract_id, net.dialect).resolve_calls(request, DONE)
    sent = of(*calls)
    await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block(2)
    found = await rpc.tx(sent.hash, OPERATOR)
    assert found is not None
    assert found.succeeded
    other = await rpc.view_access_key(OPERATOR, net.operator.public_key)
    assert other.nonce == 1000 * 10**6, "each key has its own nonce"


async def test_two_transactions_with_one_nonce_do_not_both_land(net: NearLocalnet, rpc: NearRpc) -> None:
    first = await signed(net, rpc, (CANCEL,))
    second = await signed(net, rpc, (replace(CANCEL, args=b'{"request_id":1}'),))
    await rpc.send_tx(first, WaitUntil.none)
    await rpc.send_tx(second, WaitUntil.none)
    net.chain.make_block(2)
    assert await rpc.tx(first.hash, OPERATOR) is not None
    assert await rpc.tx(second.hash, OPERATOR) is None
    with pytest.raises(LookFirst):
        await rpc.send_tx(second)


async def test_a_transaction_can_be_lost_after_it_was_taken(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.drop_next()
    sent = await signed(net, rpc, (CANCEL,))
    await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block(2)
    assert await rpc.tx(sent.hash, OPERATOR) is None
    await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block(2)
    assert await rpc.tx(sent.hash, OPERATOR) is not None


async def test_a_node_that_answers_with_another_block_is_not_believed(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.fail("block", kind="other_json")
    with pytest.raises(Unreadable):
        await rpc.block(1000)


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:3030", "http://", "http://x:99999", "http://[::1"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(Permanent, match="not an http or https URL"):
        NearRpc([url])


async def test_a_providers_key_in_the_address_is_used_and_never_printed() -> None:
    url = "http://127.0.0.1:9/rpc/0123456789abcdef0123?apiKey=fedcba98765432100123"
    async with NearRpc([url]) as rpc:
        with pytest.raises(Transient) as caught:
            await rpc.status()
    assert "0123456789abcdef" not in str(caught.value)
    assert "fedcba9876543210" not in str(caught.value)


def test_no_node_at_all_is_refused_with_the_settings_name() -> None:
    with pytest.raises(Permanent) as caught:
        NearRpc([])
    assert "MILLRACE_NEAR__RPC_URLS" in caught.value.hint
