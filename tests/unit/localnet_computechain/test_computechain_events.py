"""The stream of events: what it says, what it never says, and that it is no more than a hint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from node_client import FakeClock, NodeClient, result_of, signed

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.keys import ComputeKey


class Listener:
    """One open stream, line by line."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._lines = (line for line in response.iter_lines() if line)

    def line(self) -> str:
        return next(self._lines)

    def event(self) -> dict[str, Any]:
        line = self.line()
        assert line.startswith("data: "), line
        event: dict[str, Any] = json.loads(line.removeprefix("data: "))
        return event

    def rest(self) -> list[str]:
        return list(self._lines)


@contextmanager
def listening(net: ComputeChainLocalnet) -> Iterator[Listener]:
    with (
        httpx.Client(timeout=10) as http,
        http.stream("GET", f"{net.url}/events/stream", headers={"accept": "text/event-stream"}) as response,
    ):
        assert response.status_code == 200
        yield Listener(response)


def test_a_confirmed_transaction_is_told_with_its_height_and_a_block_is_not(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """`block_created` is in the documents and never on the stream: two empty blocks say nothing."""
    with listening(net) as listener:
        assert listener.headers["content-type"].startswith("text/event-stream")
        net.chain.make_block(2)
        hashes = [node.send(signed(worker, nonce)) for nonce in range(2)]
        net.chain.make_block()
        for tx_hash in hashes:
            assert listener.event() == {"type": "tx_confirmed", "tx_hash": tx_hash, "block_height": 3}


@pytest.mark.parametrize(
    ("nonce", "error"),
    [(0, "Transaction expired (TTL exceeded)"), (4, "Transaction expired in pending queue (TTL exceeded)")],
)
def test_an_expired_transaction_is_told_as_failed(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey, nonce: int, error: str
) -> None:
    with listening(net) as listener:
        tx_hash = node.send(signed(worker, nonce))
        clock.now += 3_601
        assert listener.event() == {"type": "tx_failed", "tx_hash": tx_hash, "error": error}


def test_a_dropped_transaction_is_told_to_nobody(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    with listening(net) as listener:
        node.send(signed(worker, payload=result_of(worker.address, proof=None)))
        net.chain.make_block()
        later = node.send(signed(worker))
        net.chain.make_block()
        assert listener.event()["tx_hash"] == later


def test_nothing_is_repeated_to_who_comes_later(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    with listening(net) as first:
        missed = node.send(signed(worker, 0))
        net.chain.make_block()
        with listening(net) as second:
            heard = node.send(signed(worker, 1))
            net.chain.make_block()
            assert second.event()["tx_hash"] == heard
        assert [first.event()["tx_hash"] for _ in range(2)] == [missed, heard]


def test_silence_is_broken_by_comments() -> None:
    with ComputeChainLocalnet(keep_alive_seconds=0.02) as net:
        net.chain.freeze()
        with listening(net) as listener:
            assert [listener.line() for _ in range(3)] == [": ping"] * 3


def test_events_can_be_lost_while_comments_go_on(worker: ComputeKey) -> None:
    with ComputeChainLocalnet(keep_alive_seconds=0.02) as net, httpx.Client() as http:
        net.chain.freeze()
        net.chain.fund(worker.address, 10**18)
        node = NodeClient(net.url, http)
        with listening(net) as listener:
            net.chain.silence_events()
            node.send(signed(worker, 0))
            net.chain.make_block()
            assert [listener.line() for _ in range(3)] == [": ping"] * 3
            net.chain.silence_events(False)
            heard = node.send(signed(worker, 1))
            net.chain.make_block()
            line = next(line for line in iter(listener.line, "") if line != ": ping")
            assert json.loads(line.removeprefix("data: "))["tx_hash"] == heard


def test_a_restart_ends_the_stream(net: ComputeChainLocalnet) -> None:
    with listening(net) as listener:
        net.chain.restart()
        assert listener.rest() == []


def test_a_listener_that_leaves_is_forgotten(net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey) -> None:
    with listening(net):
        pass
    for nonce in range(3):
        node.send(signed(worker, nonce))
        net.chain.make_block()
    with listening(net) as listener:
        heard = node.send(signed(worker, 3))
        net.chain.make_block()
        assert listener.event()["tx_hash"] == heard


def test_a_stream_can_be_refused(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fail("events", status=503)
    assert node.get("/events/stream").status_code == 503
