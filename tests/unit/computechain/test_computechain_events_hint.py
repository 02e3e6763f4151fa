"""The stream of events, which may only ever be a hint: what is read of it, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from localnet.computechain import ComputeChainLocalnet
from millrace.errors import Transient
from protocols.computechain import rpc as computechain_rpc
from protocols.computechain.events import Event, event_in
from protocols.computechain.keys import ComputeKey
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import ComputeResult, Transaction, submit_result

KEY = ComputeKey(b"\x01" * 32)


def transaction(nonce: int) -> Transaction:
    result = ComputeResult(task_id="t", worker_address=KEY.address, result_hash="", proof="", signature="")
    return submit_result(KEY, result, nonce=nonce, gas_price=1_000)


async def test_a_block_is_told_with_the_hash_of_its_transaction() -> None:
    with ComputeChainLocalnet(keep_alive_seconds=0.02) as net:
        net.chain.freeze()
        net.chain.fund(KEY.address, 10**18)
        async with ComputeChainRpc([net.url], timeout_seconds=2) as rpc, aclosing(rpc.events()) as events:
            told = asyncio.ensure_future(anext(events))
            hashes: dict[str, int] = {}
            # What happens before the node listens to us is not told, so that one block may not be enough.
            while not told.done():
                sent = transaction(len(hashes))
                await rpc.send(sent)
                hashes[sent.hash] = net.chain.make_block()
                await asyncio.wait([told], timeout=0.1)
            event = told.result()
            assert (event.type, event.block_height) == ("tx_confirmed", hashes[event.tx_hash])


async def test_a_silent_node_is_not_listened_to_for_ever() -> None:
    with ComputeChainLocalnet(keep_alive_seconds=60) as net:
        net.chain.freeze()
        async with ComputeChainRpc([net.url], timeout_seconds=2) as rpc:
            with pytest.raises(Transient, match="broke off: ReadTimeout"):
                await anext(rpc.events(silence_seconds=0.2))


async def test_a_stream_of_nothing_but_comments_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without end kept a core busy."""
    monkeypatch.setattr(computechain_rpc, "_MOST_LINES_BESIDE", 20)
    with ComputeChainLocalnet(keep_alive_seconds=0.001) as net:
        net.chain.freeze()
        async with ComputeChainRpc([net.url], timeout_seconds=2) as rpc:
            with pytest.raises(Transient, match="without an event"):
                await anext(rpc.events())


async def test_a_node_that_does_not_stream_now_is_one_to_ask_later() -> None:
    with ComputeChainLocalnet() as net:
        async with ComputeChainRpc([net.url], timeout_seconds=2) as rpc:
            net.chain.fail("events", kind="status", times=1)
            with pytest.raises(Transient, match="status"):
                await anext(rpc.events())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b": ping",
        b"event: block",
        b"data:",
        b"data: {",
        b"data: []",
        b"data: " + b"[" * 5_000,
        b'data: {"type":"block_created","height":5}',
        b'data: {"type":"tx_confirmed","tx_hash":"\x1b[31m"}',
        b'data: {"type":"tx_confirmed","tx_hash":"' + b"ab" * 32 + b'","block_height":-1}',
    ],
)
def test_what_is_no_event_is_passed_over(line: bytes) -> None:
    assert event_in(line) is None


def test_both_kinds_of_event_are_read() -> None:
    confirmed = b'data: {"type":"tx_confirmed","tx_hash":"%s","block_height":7}' % (b"ab" * 32)
    failed = b'data: {"type":"tx_failed","tx_hash":"%s","error":"expired"}' % (b"ab" * 32)
    assert event_in(confirmed) == Event(type="tx_confirmed", tx_hash="ab" * 32, block_height=7)
    assert event_in(failed) == Event(type="tx_failed", tx_hash="ab" * 32, error="expired")
