"""The RPC as clients see it: shapes, defaults and errors, and that blocks come by themselves."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest
from node_client import FakeClock, NodeClient, signed

from localnet.computechain import FAUCET_KEY, ComputeChainLocalnet
from protocols.computechain.keys import ComputeKey


def test_the_status_names_tip_network_pool_and_epoch(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    node.send(signed(worker))
    status = node.read("/status")
    assert list(status) == ["height", "last_hash", "network", "mempool_size", "epoch"]
    assert (status["height"], status["network"], status["mempool_size"], status["epoch"]) == (0, "devnet", 1, 0)
    net.chain.make_block(100)
    assert (node.read("/status")["height"], node.read("/status")["epoch"]) == (100, 1)


def test_before_the_first_block_the_height_is_minus_one() -> None:
    with ComputeChainLocalnet(first_block=False) as net, httpx.Client() as http:
        net.chain.freeze()
        node = NodeClient(net.url, http)
        assert (node.height(), node.read("/status")["epoch"]) == (-1, 0)
        assert node.get("/block/0").status_code == 404
        net.chain.make_block()
        assert node.block(0)["header"]["prev_hash"] == "0" * 64


def test_a_block_is_found_by_its_height_only(node: NodeClient) -> None:
    for absent in ("1", "-1", "99999999999999999999"):
        answer = node.get(f"/block/{absent}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Block not found"})
    for nonsense in ("latest", node.read("/status")["last_hash"][:8] + "x"):
        answer = node.get(f"/block/{nonsense}")
        assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "int_parsing")
        assert answer.json()["detail"][0]["loc"] == ["path", "height"]


@pytest.mark.parametrize("text", ["cpc1nobody", "latest", "0x12", "%20", "gr%C3%B6%C3%9Fe"])
def test_any_text_is_an_address_with_nothing(node: NodeClient, text: str) -> None:
    """A typing error shows as an empty account, never as an error."""
    answer = node.read(f"/balance/{text}")
    assert (answer["balance"], answer["nonce"]) == ("0", 0)
    assert node.nonce(text) == 0


def test_a_balance_is_a_decimal_string(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fund("cpc1rich", 2**80 + 1)
    assert node.read("/balance/cpc1rich") == {"address": "cpc1rich", "balance": str(2**80 + 1), "nonce": 0}


def test_the_nonce_counts_the_pool_unless_told_otherwise(node: NodeClient, worker: ComputeKey) -> None:
    node.send(signed(worker))
    address = worker.address
    assert node.read(f"/nonce/{address}") == {"address": address, "nonce": 1, "pending": True}
    assert node.read(f"/nonce/{address}", pending="false") == {"address": address, "nonce": 0, "pending": False}
    assert node.get(f"/nonce/{address}", pending="perhaps").status_code == 422


def test_a_receipt_goes_from_pending_to_confirmed(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey
) -> None:
    tx_hash = node.send(signed(worker))
    accepted = int(clock.now)
    assert node.receipt(tx_hash) == {
        "tx_hash": tx_hash, "status": "pending", "block_height": None, "timestamp": accepted, "error": None,
    }  # fmt: skip
    net.chain.make_block(3)
    receipt = node.receipt(tx_hash)
    assert (receipt["status"], receipt["block_height"], receipt["confirmations"]) == ("confirmed", 1, 3)
    assert receipt["timestamp"] == node.block(1)["header"]["timestamp"]


def test_what_was_never_accepted_has_no_receipt(node: NodeClient, worker: ComputeKey) -> None:
    answer = node.get(f"/tx/{'ab' * 32}/receipt")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Transaction not found"})
    rejected = node.post(signed(worker, gas_price=1)).json()
    assert node.get(f"/tx/{rejected['tx_hash']}/receipt").status_code == 404


def test_validators_have_more_power_than_a_float_can_count(node: NodeClient) -> None:
    answer = node.read("/validators")
    assert answer["epoch"] == 0
    assert all(one["address"].startswith("cpcvalcons1") and one["is_active"] for one in answer["validators"])
    assert all(isinstance(one["power"], int) and one["power"] > 2**53 for one in answer["validators"])


def test_metrics_are_text_for_prometheus(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.make_block(2)
    answer = node.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "computechain_block_height 2\n" in answer.text


def test_paths_of_the_public_guide_do_not_exist(node: NodeClient) -> None:
    for path in ("/chain/info", "/block", "/block/1/txs", "/tx/receipt", "/health", "/"):
        answer = node.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert node.get("/tx/send").status_code == 405
    assert node.http.post(f"{node.url}/status", json={}).status_code == 405


def test_blocks_come_every_block_time_of_the_clock(clock: FakeClock) -> None:
    with ComputeChainLocalnet(clock=clock) as net, httpx.Client() as http:
        node = NodeClient(net.url, http)
        clock.now += 4.9
        assert node.height() == 0
        clock.now += 0.2
        assert node.height() == 1
        clock.now += 50
        assert node.height() == 11
        net.chain.set_block_seconds(0.5)
        clock.now += 2
        assert node.height() == 15
        assert net.chain.freeze() == 15
        clock.now += 100
        assert node.height() == 15
        net.chain.thaw()
        clock.now += 0.6
        assert node.height() == 16


@pytest.mark.parametrize(
    ("network", "seconds", "premine"), [("devnet", 5, 10**9), ("testnet", 30, 10**8), ("mainnet", 60, 0)]
)
def test_each_network_has_its_own_pace_and_premine(clock: FakeClock, network: str, seconds: int, premine: int) -> None:
    with ComputeChainLocalnet(network, clock=clock) as net, httpx.Client() as http:
        node = NodeClient(net.url, http)
        assert node.balance(net.faucet.address) == premine * 10**18
        clock.now += 3 * seconds
        assert node.height() == 3
        assert node.read("/status")["network"] == network
        headers = [node.block(height)["header"] for height in (2, 3)]
        assert headers[1]["timestamp"] - headers[0]["timestamp"] == seconds
        assert headers[0]["chain_id"] == net.chain_id == f"cpc-{network}-1"


def test_blocks_come_when_nobody_asks() -> None:
    """By the real clock, since this is about a thread."""
    with ComputeChainLocalnet(block_seconds=0.02) as net, net.chain.events.listen() as stream:
        net.chain.transfer("cpc1somebody", 1)
        assert b"tx_confirmed" in next(stream)


def test_the_faucet_is_an_account_with_a_key_that_everybody_knows(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    before = node.balance(worker.address)
    assert net.faucet == FAUCET_KEY
    tx_hash = net.chain.transfer(worker.address, 10**18)
    net.chain.make_block()
    assert node.receipt(tx_hash)["status"] == "confirmed"
    assert node.balance(worker.address) == before + 10**18
    with pytest.raises(ValueError, match="insufficient_balance"):
        net.chain.transfer(worker.address, 10**30)


def test_an_unknown_network_or_a_block_time_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no network is called 'betanet'; known: devnet, testnet, mainnet"):
        ComputeChainLocalnet("betanet")
    with pytest.raises(ValueError, match="must be positive"):
        ComputeChainLocalnet(block_seconds=0)


def test_stopping_ends_streams_and_calls_that_hang_and_frees_the_port() -> None:
    before = set(threading.enumerate())
    net = ComputeChainLocalnet().start()
    net.chain.fail("status", kind="hang", seconds=600)
    errors: list[str] = []

    def hang() -> None:
        try:
            httpx.get(f"{net.url}/status", timeout=60)
        except httpx.HTTPError as error:
            errors.append(type(error).__name__)

    caller = threading.Thread(target=hang)
    with httpx.Client() as http, http.stream("GET", f"{net.url}/events/stream", timeout=60) as stream:
        caller.start()
        while not net.chain.calls["status"]:
            time.sleep(0.005)
        started = time.monotonic()
        net.stop()
        assert list(stream.iter_lines()) == []
    caller.join(5)
    assert time.monotonic() - started < 5
    assert errors == ["RemoteProtocolError"]
    assert not [thread for thread in set(threading.enumerate()) - before if "computechain" in thread.name]
    port = int(net.url.rsplit(":", 1)[1])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
