"""The bad days of a node, and the HTTP side of the server."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest
from job_abi import initialize, job_address, signed
from rpc_client import RpcClient
from solders.keypair import Keypair

from localnet.solana import SolanaLocalnet
from localnet.solana.program import PROGRAM_ID
from localnet.solana.runtime import SYSTEM_PROGRAM

SLOT = {"jsonrpc": "2.0", "id": 1, "method": "getSlot"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_is_answered_so_many_times_and_for_that_method_only(
    net: SolanaLocalnet, rpc: RpcClient, status: int
) -> None:
    net.chain.fail("getSlot", 2, status=status, retry_after_seconds=3)
    assert rpc("getBlockHeight")
    answers = [rpc.post(SLOT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].headers["retry-after"] == "3"


def test_faults_of_a_method_follow_one_another_and_a_star_is_every_method(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", 1, status=500)
    net.chain.fail("getSlot", 1, status=429)
    net.chain.fail("*", 1, status=503)
    assert [rpc.post(SLOT).status_code for _ in range(4)] == [500, 429, 503, 200]


def test_a_reset_ends_the_connection_before_the_call(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    net.chain.fail("sendTransaction", kind="reset")
    transaction = signed(initialize(payer.pubkey(), "hello"), payer, rpc.blockhash())
    with pytest.raises(httpx.TransportError):
        rpc.send(transaction)
    assert rpc.status(str(transaction.signatures[0])) is None


def test_a_lost_reply_ends_the_connection_after_the_call(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    """The outcome that only the chain knows: sent, carried out, and the sender sees an error."""
    net.chain.fail("sendTransaction", kind="lost_reply")
    transaction = signed(initialize(payer.pubkey(), "hello"), payer, rpc.blockhash())
    with pytest.raises(httpx.TransportError):
        rpc.send(transaction)
    assert rpc.status(str(transaction.signatures[0]))["err"] is None


def test_a_malformed_answer_is_no_json(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="malformed")
    with pytest.raises(json.JSONDecodeError):
        rpc.post(SLOT).json()


def test_a_cut_answer_ends_halfway_and_another_document_is_valid_json(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        rpc.post(SLOT)
    net.chain.fail("getSlot", kind="other_json")
    assert isinstance(rpc.post(SLOT).json(), list)


def test_a_hanging_call_is_never_answered_and_holds_up_nobody_else(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="hang", seconds=60)
    with httpx.Client(timeout=0.2) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post(net.url, json=SLOT)
    assert rpc("getSlot")


def test_a_hang_ends_by_closing_the_connection(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="hang", seconds=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        rpc.post(SLOT)


def test_a_slow_answer_is_right_and_late(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="slow", seconds=0.15)
    started = time.monotonic()
    assert rpc("getSlot") == net.chain.slot("finalized")
    assert time.monotonic() - started >= 0.15


def test_an_unhealthy_node_says_how_far_behind_it_is(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getHealth", kind="unhealthy")
    error = rpc.error("getHealth")
    assert (error["code"], error["data"]) == (-32005, {"numSlotsBehind": 150})
    assert rpc("getHealth") == "ok"


def test_faults_can_be_forgotten(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    net.chain.fail("getSlot", 5)
    net.chain.drop_next(5)
    net.chain.hold_next(5)
    net.chain.clear_faults()
    assert rpc("getSlot")
    assert rpc.status(rpc.send(signed(initialize(payer.pubkey(), "hello"), payer, rpc.blockhash()))) is not None


def test_an_unknown_kind_of_fault_is_refused(net: SolanaLocalnet) -> None:
    with pytest.raises(ValueError, match="no fault is called 'hiccup'; known: status, hang"):
        net.chain.fail("getSlot", kind="hiccup")


def test_every_call_is_counted_also_those_that_fail(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", 1)
    rpc.post(SLOT)
    rpc.post([SLOT, SLOT])
    rpc.post({**SLOT, "method": "getNothing"})
    assert net.chain.calls == {"getSlot": 3, "getNothing": 1}


def test_stopping_ends_calls_that_hang_and_connections_that_idle() -> None:
    before = set(threading.enumerate())
    net = SolanaLocalnet().start()
    net.chain.fail("getSlot", kind="hang", seconds=600)
    errors: list[str] = []

    def hang() -> None:
        try:
            httpx.post(net.url, json=SLOT, timeout=60)
        except httpx.HTTPError as error:
            errors.append(type(error).__name__)

    caller = threading.Thread(target=hang)
    with httpx.Client() as idle:
        idle.post(net.url, json={**SLOT, "method": "getHealth"})
        caller.start()
        while not net.chain.calls["getSlot"]:
            time.sleep(0.005)
        started = time.monotonic()
        net.stop()
        caller.join(5)
    assert time.monotonic() - started < 5
    assert errors == ["RemoteProtocolError"]
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "localnet-solana"]


def test_a_localnet_that_was_never_started_can_be_stopped_and_frees_its_port() -> None:
    net = SolanaLocalnet()
    port = int(net.url.rsplit(":", 1)[1])
    net.stop()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_batch_is_answered_in_order_each_for_itself(rpc: RpcClient) -> None:
    answers = rpc.post([{**SLOT, "id": "a"}, {**SLOT, "id": "b", "method": "getNothing"}, 17]).json()
    assert [answer["id"] for answer in answers] == ["a", "b", None]
    assert answers[1]["error"] == {"code": -32601, "message": "Method not found"}
    assert answers[2]["error"]["code"] == -32600


def test_requests_that_are_none_are_told_so(rpc: RpcClient) -> None:
    assert rpc.http.post(rpc.url, content=b"{").json()["error"]["code"] == -32700
    for document in ([], {}, {"method": 1}, "getSlot", 0):
        assert rpc.post(document).json()["error"]["code"] == -32600
    assert rpc.post({**SLOT, "params": {}}).json()["result"]
    assert rpc.post({**SLOT, "params": {"a": 1}}).json()["error"]["code"] == -32602
    assert rpc.http.get(rpc.url).status_code == 405
    assert rpc.http.get(f"{rpc.url}/health").text == "ok"


def test_a_body_without_a_length_is_refused(net: SolanaLocalnet) -> None:
    answer = httpx.post(net.url, content=iter([b"{}"]))  # sent in chunks
    assert answer.status_code == 411


def test_one_connection_serves_many_calls(net: SolanaLocalnet) -> None:
    address = net.url.removeprefix("http://").split(":")
    body = json.dumps(SLOT)
    request = f"POST / HTTP/1.1\r\nHost: localnet\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with socket.create_connection((address[0], int(address[1])), timeout=5) as connection:
        replies = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(request)
            assert replies.readline().startswith(b"HTTP/1.1 200")
            headers = iter(replies.readline, b"\r\n")
            length = next(int(line.split(b":")[1]) for line in headers if line.lower().startswith(b"content-length"))
            while replies.readline() != b"\r\n":
                pass
            assert json.loads(replies.read(length))["result"]
        replies.close()


def test_another_process_has_the_same_controls(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    slot = rpc.control("slot").json()["result"]
    assert rpc.control("advance", slots=3).json() == {"result": slot + 3}
    rpc.control("airdrop", address=str(payer.pubkey()), lamports=5).raise_for_status()
    assert rpc("getBalance", str(payer.pubkey()))["value"] == 10**10 + 5
    rpc.control("drop_next", times=1).raise_for_status()
    transaction = signed(initialize(payer.pubkey(), "hello"), payer, rpc.blockhash())
    job = str(job_address(payer.pubkey(), "hello"))
    rpc.send(transaction)
    assert rpc.control("landed", address=job).json()["result"] == []
    signature = rpc.send(transaction)
    assert rpc.control("landed", address=job).json()["result"] == [signature]
    rpc.control("fail", method="getSlot", times=1, status=429).raise_for_status()
    assert rpc.post(SLOT).status_code == 429
    assert rpc.control("calls").json()["result"]["sendTransaction"] == 2
    seeded = [{"address": SYSTEM_PROGRAM[:-1] + "2", "owner": PROGRAM_ID, "lamports": 9, "content": "AAEC"}]
    assert rpc.control("seed_accounts", accounts=seeded).json() == {"result": 1}
    assert rpc("getAccountInfo", seeded[0]["address"], {"encoding": "base64"})["value"]["data"][0] == "AAEC"


@pytest.mark.parametrize(
    "document",
    [
        {"action": "halt"},
        {"action": "advance"},
        {"action": "advance", "slots": -1},
        {"action": "advance", "slots": "many"},
        {"action": "fail", "method": "getSlot", "kind": "hiccup"},
        {"action": "airdrop", "address": "abc", "lamports": 1},
        {"action": "seed_accounts", "accounts": [{}]},
        {"action": "lock"},
        [],
    ],
)
def test_a_control_that_makes_no_sense_is_refused_with_a_reason(rpc: RpcClient, document: object) -> None:
    answer = rpc.http.post(f"{rpc.url}/_localnet", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert rpc("getHealth") == "ok"


def test_a_dripping_answer_is_right_and_takes_its_time(net: SolanaLocalnet, rpc: RpcClient) -> None:
    net.chain.fail("getSlot", kind="drip", seconds=0.2)
    began = time.monotonic()
    assert rpc("getSlot") > 0
    assert time.monotonic() - began >= 0.15


def test_what_was_met_is_counted_and_what_still_waits_is_not(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    """Who injects a fault wants to know that somebody met it, and how often."""
    net.chain.fail("getSlot", 3, status=429)
    net.chain.fail("*", kind="malformed")
    net.chain.drop_next()
    for _ in range(2):
        rpc.post(SLOT)
    assert rpc.control("served").json()["result"] == {"429": 2}
    net.chain.clear_faults()
    net.chain.drop_next()
    rpc.send(signed(initialize(payer.pubkey(), "hello"), payer, rpc.blockhash()))
    assert rpc.control("served").json()["result"] == {"429": 2, "dropped": 1}
