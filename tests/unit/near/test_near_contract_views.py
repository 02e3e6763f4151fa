"""What the contract is asked, and what "unable to resume" turns out to mean."""

from __future__ import annotations

import pytest
from near_requests import DONE, FAILED, requested, signed

from localnet.near import OPERATOR, Dialect, NearLocalnet
from protocols.near.answers import WaitUntil
from protocols.near.contract import ExecutionRequest, Resolution, ResourceLimits
from protocols.near.contract_views import (
    CALLBACK_BLOCKS,
    EARLY_BLOCKS,
    UNABLE_TO_RESUME,
    Contract,
    ContractConfig,
    MaxLimits,
    NotTheContract,
    RefusedResume,
    dialect_of,
)
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import ExecutionFailed, NodeBusy


@pytest.fixture
def contract(net: NearLocalnet, rpc: NearRpc) -> Contract:
    return Contract(rpc, net.contract_id, net.dialect)


async def resolve(
    net: NearLocalnet, rpc: NearRpc, request: ExecutionRequest, resolution: Resolution
) -> ExecutionFailed | None:
    """Send a resolution and make the blocks it takes; returns why it failed."""
    calls = Contract(rpc, net.contract_id, net.dialect).resolve_calls(request, resolution)
    sent = await signed(net, rpc, calls)
    await rpc.send_tx(sent, WaitUntil.none)
    net.chain.make_block(2)
    found = await rpc.tx(sent.hash, OPERATOR)
    assert found is not None
    assert found.failure is None or isinstance(found.failure, ExecutionFailed)
    net.chain.make_block(2)
    return found.failure


async def test_the_views(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    early = net.dialect is Dialect.early
    assert await dialect_of(rpc, net.contract_id) is net.dialect
    assert await contract.get_config() == ContractConfig("owner.test.near", OPERATOR)
    assert await contract.get_max_limits() == (
        MaxLimits(100_000_000_000, 60) if early else MaxLimits(500_000_000_000, 180, 300)
    )
    assert not await contract.is_paused()
    net.chain.pause()
    assert await contract.is_paused()
    assert await contract.estimate_cost() == (70001000000000000000000 if early else 7000100000000000000000)
    small = ResourceLimits(max_instructions=1_000_000, max_execution_seconds=1)
    price = await contract.get_pricing()
    assert await contract.estimate_cost(small) == price.cost(1_000_000, 1_000)
    assert price.per_compile_ms == (0 if early else 10**17)


async def test_the_request_is_there_until_it_is_settled(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    request, tx_hash = await requested(net)
    stored = await contract.get_request(0)
    assert stored is not None
    assert (stored.sender_id, stored.payment_yocto) == ("requester.test.near", 10**24)
    assert stored.timestamp_ns == request.timestamp_ns
    assert (stored.code_source or stored.resolved_source) == request.code_source
    assert await resolve(net, rpc, request, DONE) is None
    assert await contract.get_request(0) is None
    assert "SuccessValue" in net.chain.result_of(tx_hash)


async def test_a_large_input_is_fetched_from_the_contracts_state(net: NearLocalnet, contract: Contract) -> None:
    size = 12_000 if net.dialect is Dialect.head else 9_000
    request, _ = await requested(net, input_data="x" * size)
    assert request.input_data_in_state is (net.dialect is Dialect.head)
    assert await contract.input_of(request) == "x" * size


async def test_the_input_of_a_settled_request_is_gone(rpc: NearRpc) -> None:
    with NearLocalnet(Dialect.head) as net:
        net.chain.freeze()
        request, _ = await requested(net, input_data="x" * 12_000)
        async with NearRpc([net.url]) as client:
            assert await resolve(net, client, request, DONE) is None
            assert await Contract(client, net.contract_id, net.dialect).input_of(request) is None


async def test_too_early_is_told_apart_and_comes_right(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    """The chain refuses to resume in the block of the request: that is no reason to give up."""
    request, _ = await requested(net)
    height = net.chain.height()
    net.chain.refuse_resumes()
    failure = await resolve(net, rpc, request, DONE)
    assert failure is not None
    assert UNABLE_TO_RESUME in failure.words
    refused_at = net.chain.height()
    if net.dialect is Dialect.head:
        with pytest.raises(NodeBusy, match="callback"):
            await contract.after_refused_resume(0, height, refused_at)
    net.chain.make_block(CALLBACK_BLOCKS)
    assert await contract.after_refused_resume(0, height, refused_at) is RefusedResume.early
    assert await resolve(net, rpc, request, DONE) is None


async def test_done_already_is_told_apart(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    request, _ = await requested(net)
    height = net.chain.height()
    assert await resolve(net, rpc, request, DONE) is None
    assert await resolve(net, rpc, request, DONE) is not None
    assert await contract.after_refused_resume(0, height, net.chain.height()) is RefusedResume.settled


async def test_what_was_resolved_as_failed_is_not_taken_for_too_early(
    net: NearLocalnet, rpc: NearRpc, contract: Contract
) -> None:
    """EARLY keeps such a request: every further refusal was taken for an early one, and another was signed."""
    request, _ = await requested(net)
    height = net.chain.height()
    assert await resolve(net, rpc, request, FAILED) is None
    net.chain.make_block(EARLY_BLOCKS)
    assert await resolve(net, rpc, request, DONE) is not None
    assert await contract.after_refused_resume(0, height, net.chain.height()) is RefusedResume.settled


async def test_a_node_that_lags_cannot_say_that_a_request_is_gone(net: NearLocalnet, contract: Contract) -> None:
    height = net.chain.height()
    assert await contract.get_request(7, since=height) is None
    with pytest.raises(NodeBusy, match=f"as of block {height}, before {height + 1}"):
        await contract.get_request(7, since=height + 1)
    with pytest.raises(NodeBusy):
        await contract.after_refused_resume(7, height, height + 1)


async def test_timed_out_is_told_apart(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    """HEAD's contract forgets a request that timed out, EARLY's keeps it until its sender cancels it."""
    request, tx_hash = await requested(net)
    height = net.chain.height()
    net.chain.make_block(199)
    assert net.chain.pending() == [0]
    net.chain.make_block(2)
    early = net.dialect is Dialect.early
    failure = await resolve(net, rpc, request, DONE)
    assert failure is not None
    expected = RefusedResume.timed_out if early else RefusedResume.settled
    assert await contract.after_refused_resume(0, height, net.chain.height()) is expected
    assert ("Failure" if early else "SuccessValue") in net.chain.result_of(tx_hash)


async def test_a_failure_settles_in_head_and_not_in_early(net: NearLocalnet, rpc: NearRpc, contract: Contract) -> None:
    request, tx_hash = await requested(net)
    assert await resolve(net, rpc, request, FAILED) is None
    early = net.dialect is Dialect.early
    assert (await contract.get_request(0) is not None) is early
    assert ("Failure" if early else "SuccessValue") in net.chain.result_of(tx_hash)


async def test_what_is_not_the_contract_is_said_to_be_none(net: NearLocalnet, contract: Contract) -> None:
    net.chain.contract.view = lambda method, args: b'{"something": "else"}'  # type: ignore[method-assign]
    for ask in (contract.get_pricing, contract.get_max_limits, contract.get_config, contract.is_paused):
        with pytest.raises(NotTheContract):
            await ask()
    with pytest.raises(NotTheContract):
        await contract.get_request(0)
