"""The RPC client against a node that misbehaves on request."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from answering_node import dead_url, listening, response
from pydantic import TypeAdapter
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from localnet.solana import SolanaLocalnet
from millrace import redaction
from millrace.errors import Permanent, Transient, UnknownOutcome
from millrace.redaction import MASK, redact
from protocols.solana import queries
from protocols.solana.fees import PriorityFeePolicy
from protocols.solana.instructions import initialize_job
from protocols.solana.job_account import ACCOUNT_BYTES, DISCRIMINATOR_BASE58, JobType
from protocols.solana.rpc import SolanaRpc
from protocols.solana.rpc_errors import EndpointRefused, PreflightRefused, RequestRefused, WrongChain
from protocols.solana.transactions import SignedTransaction, sign_transaction

SIGNATURE = "1" * 64
PROGRAM = Pubkey.from_bytes(bytes(range(32)))
SECRET = "0123456789abcdef-api-key"
NUMBER: TypeAdapter[int] = TypeAdapter(int)

READS: dict[str, Callable[[SolanaRpc], Any]] = {
    "getGenesisHash": lambda rpc: rpc.genesis_hash(),
    "getAccountInfo": lambda rpc: queries.account(rpc, PROGRAM, "confirmed"),
    "getMultipleAccounts": lambda rpc: queries.accounts(rpc, [PROGRAM], "finalized"),
    "getProgramAccounts": lambda rpc: queries.program_addresses(
        rpc, PROGRAM, account_bytes=ACCOUNT_BYTES, starts=[(0, DISCRIMINATOR_BASE58)]
    ),
    "getLatestBlockhash": queries.latest_blockhash,
    "getRecentPrioritizationFees": lambda rpc: queries.recent_priority_fees(rpc, [PROGRAM]),
    "getSignatureStatuses": lambda rpc: queries.signature_status(rpc, SIGNATURE),
    "getEpochInfo": lambda rpc: queries.epoch_info(rpc, "confirmed"),
    "getTransaction": lambda rpc: queries.transaction_fee(rpc, SIGNATURE),
    "getBalance": lambda rpc: queries.balance(rpc, PROGRAM),
    "getMinimumBalanceForRentExemption": lambda rpc: queries.rent_exempt_reserve(rpc, 0),
    "getBlockHeight": queries.block_height,
}
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503},
    "hang": {"kind": "hang", "seconds": 1.0},
    "reset": {"kind": "reset"},
    "lost_reply": {"kind": "lost_reply"},
    "malformed": {"kind": "malformed"},
    "unhealthy": {"kind": "unhealthy"},
}


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def running() -> Iterator[SolanaLocalnet]:
    with SolanaLocalnet(slot_milliseconds=10) as net:
        yield net


@pytest.fixture
def net(running: SolanaLocalnet) -> Iterator[SolanaLocalnet]:
    running.chain.clear_faults()
    running.chain.calls.clear()
    yield running
    running.chain.clear_faults()


ANOTHER_GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"


class StubbornNode:
    """A node that answers every call but getGenesisHash with the same member of a JSON-RPC response."""

    def __init__(self, genesis_hash: str) -> None:
        self.genesis_hash = genesis_hash
        self.answer: dict[str, Any] = {"result": 1}
        self.url = ""
        self.asked: list[dict[str, Any]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        with listening(self._answer) as self.url:
            yield

    def _answer(self, request: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        self.asked.append(request)
        asked_who = request["method"] == "getGenesisHash"
        return response(request, {"result": self.genesis_hash} if asked_who else self.answer), {}


@pytest.fixture
def stubborn() -> Iterator[StubbornNode]:
    node = StubbornNode(ANOTHER_GENESIS)
    with node.listening():
        yield node


@pytest.fixture
def foreign_url(stubborn: StubbornNode) -> str:
    """The URL of a node of another chain."""
    return stubborn.url


async def signed(net: SolanaLocalnet, rpc: SolanaRpc, title: str) -> SignedTransaction:
    owner = Keypair()
    net.chain.airdrop(str(owner.pubkey()), 10**9)
    program = Pubkey.from_string(net.program_id)
    posting = initialize_job(program, owner.pubkey(), title, "Qm", JobType.manual)
    return await sign_transaction(rpc, owner, posting, PriorityFeePolicy())


@pytest.mark.parametrize("method", READS)
async def test_every_question_is_answered_by_a_healthy_node(net: SolanaLocalnet, method: str) -> None:
    async with SolanaRpc([net.url]) as rpc:
        await READS[method](rpc)
    assert net.chain.calls[method] == 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", READS)
async def test_a_read_that_fails_for_now_is_transient_and_works_again_later(
    net: SolanaLocalnet, method: str, fault: str
) -> None:
    net.chain.fail(method, **FAULTS[fault])
    async with SolanaRpc([net.url], timeout_seconds=0.3 if fault == "hang" else 10.0) as rpc:
        with pytest.raises(Transient, match=f"^{net.url} .*{method}"):
            await READS[method](rpc)
        await READS[method](rpc)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_send_that_fails_has_an_unknown_outcome_and_its_bytes_can_be_sent_again(
    net: SolanaLocalnet, fault: str
) -> None:
    async with SolanaRpc([net.url], timeout_seconds=0.3 if fault == "hang" else 10.0) as rpc:
        transaction = await signed(net, rpc, f"job {fault}")
        net.chain.fail("sendTransaction", **FAULTS[fault])
        with pytest.raises(UnknownOutcome):
            await rpc.send(transaction.payload, preflight=True)
        assert net.chain.calls["sendTransaction"] == 1
        assert await rpc.send(transaction.payload, preflight=False) == transaction.signature
    assert net.chain.log.get(transaction.signature) is not None


@pytest.mark.parametrize("method", ["getBlockHeight", "getProgramAccounts"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32005, Transient),
        (-32012, Transient),
        (-32016, Transient),
        (-32017, Transient),
        (-32429, Transient),
        (-32603, Transient),
        (-32010, EndpointRefused),
        (-32601, EndpointRefused),
        (-32600, RequestRefused),
        (-32602, RequestRefused),
        (-31_999, RequestRefused),
    ],
)
async def test_what_a_node_says_by_its_error_code_is_classed_the_same_for_every_method(
    stubborn: StubbornNode, method: str, code: int, kind: type[Exception]
) -> None:
    details = {-32005: {"numSlotsBehind": 3}, -32016: {"contextSlot": 3}}.get(code)
    stubborn.answer = {"error": {"code": code, "message": "no", **({"data": details} if details else {})}}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(kind, match=str(code)):
            await READS[method](rpc)


@pytest.mark.parametrize("method", [name for name in READS if name != "getGenesisHash"])
@pytest.mark.parametrize("answer", [{"result": "words"}, {"result": {"value": {}}}, {}, {"result": [{"pubkey": "x"}]}])
async def test_an_answer_of_another_shape_is_not_believed(
    stubborn: StubbornNode, method: str, answer: dict[str, Any]
) -> None:
    stubborn.answer = answer
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient, match="not Solana's JSON-RPC"):
            await READS[method](rpc)


async def test_no_status_for_the_signature_asked_about_is_not_taken_for_absence(stubborn: StubbornNode) -> None:
    """Pins a false proof of expiry out of an answer with too few members."""
    stubborn.answer = {"result": {"context": {"slot": 10**9}, "value": []}}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient):
            await queries.signature_status(rpc, SIGNATURE)


async def test_fewer_accounts_than_asked_for_are_not_believed(stubborn: StubbornNode) -> None:
    stubborn.answer = {"result": {"context": {"slot": 1}, "value": [None]}}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient, match="asked for 2 accounts, got 1"):
            await queries.accounts(rpc, [PROGRAM, PROGRAM], "confirmed")


@pytest.mark.parametrize(
    ("preflight", "config"),
    [
        (True, {"skipPreflight": False, "preflightCommitment": "confirmed", "minContextSlot": 77}),
        (False, {"skipPreflight": True}),
    ],
)
async def test_a_node_is_told_never_to_resend_and_what_to_check(
    stubborn: StubbornNode, preflight: bool, config: dict[str, Any]
) -> None:
    stubborn.answer = {"result": SIGNATURE}
    async with SolanaRpc([stubborn.url]) as rpc:
        await rpc.send("AAAA", preflight=preflight, min_context_slot=77)
    assert stubborn.asked[-1]["params"] == ["AAAA", {"encoding": "base64", "maxRetries": 0, **config}]


async def test_preflight_tells_the_error_and_sends_nothing(net: SolanaLocalnet) -> None:
    async with SolanaRpc([net.url]) as rpc:
        transaction = await signed(net, rpc, "twice")
        await rpc.send(transaction.payload, preflight=True)
        net.chain.advance(3)
        with pytest.raises(PreflightRefused) as caught:
            await rpc.send(transaction.payload, preflight=True)
    assert caught.value.error == "AlreadyProcessed"


async def test_a_node_that_has_not_reached_the_wanted_slot_is_only_busy(net: SolanaLocalnet) -> None:
    async with SolanaRpc([net.url]) as rpc:
        with pytest.raises(Transient, match="-32016"):
            await queries.account(rpc, PROGRAM, "finalized", min_context_slot=10**9)


async def test_a_request_that_is_wrong_everywhere_is_not_tried_everywhere(net: SolanaLocalnet) -> None:
    with SolanaLocalnet() as second:
        async with SolanaRpc([net.url, second.url]) as rpc:
            with pytest.raises(RequestRefused):
                await rpc.read("getBalance", ["no address"], NUMBER)
        assert second.chain.calls["getBalance"] == 0


async def test_the_wait_that_a_node_asks_for_is_passed_on_and_kept(net: SolanaLocalnet) -> None:
    clock = Clock()
    with SolanaLocalnet() as second:
        async with SolanaRpc([net.url, second.url], clock=clock) as rpc:
            net.chain.fail("getBlockHeight", status=429, retry_after_seconds=30)
            await queries.block_height(rpc)
            clock.seconds += 29
            await queries.block_height(rpc)
            assert (net.chain.calls["getBlockHeight"], second.chain.calls["getBlockHeight"]) == (1, 2)
            clock.seconds += 2
            await queries.block_height(rpc)
            assert (net.chain.calls["getBlockHeight"], second.chain.calls["getBlockHeight"]) == (2, 2)
    async with SolanaRpc([net.url]) as rpc:
        net.chain.fail("getBlockHeight", status=429, retry_after_seconds=30)
        with pytest.raises(Transient) as caught:
            await queries.block_height(rpc)
    assert caught.value.retry_after_seconds == 30


async def test_a_dead_endpoint_is_left_alone_longer_with_every_failure(net: SolanaLocalnet) -> None:
    clock = Clock()
    with SolanaLocalnet() as second:
        async with SolanaRpc([net.url, second.url], clock=clock) as rpc:
            await queries.block_height(rpc)
            net.chain.fail("getBlockHeight", times=1_000)
            asked = []
            for _ in range(20):
                before = net.chain.calls["getBlockHeight"]
                await queries.block_height(rpc)
                asked.append(net.chain.calls["getBlockHeight"] > before)
                clock.seconds += 1.01
    assert [second for second, was_asked in enumerate(asked) if was_asked] == [0, 1, 3, 7, 15]


async def test_one_endpoint_of_two_that_nobody_listens_at_does_no_harm(net: SolanaLocalnet) -> None:
    async with SolanaRpc([dead_url(), net.url]) as rpc:
        transaction = await signed(net, rpc, "past the dead")
        assert await rpc.send(transaction.payload, preflight=True) == transaction.signature


async def test_sends_stay_with_one_endpoint_until_it_fails(net: SolanaLocalnet) -> None:
    clock = Clock()
    with SolanaLocalnet() as second:
        async with SolanaRpc([net.url, second.url], clock=clock) as rpc:
            transaction = await signed(net, rpc, "sticky")

            async def send() -> tuple[int, int]:
                await rpc.send(transaction.payload, preflight=False)
                return net.chain.calls["sendTransaction"], second.chain.calls["sendTransaction"]

            assert await send() == (1, 0)
            assert await send() == (2, 0)
            net.chain.fail("sendTransaction")
            assert await send() == (3, 1)
            clock.seconds += 600  # the first has recovered long ago, and yet there is no reason to go back
            assert await send() == (3, 2)


async def test_an_endpoint_of_another_chain_is_named_and_never_asked_for_more(
    net: SolanaLocalnet, foreign_url: str
) -> None:
    async with SolanaRpc([foreign_url], genesis_hash=net.genesis_hash) as rpc:
        for _ in range(2):
            with pytest.raises(WrongChain, match=f"{foreign_url} serves the chain {ANOTHER_GENESIS}"):
                await queries.block_height(rpc)


async def test_the_endpoints_of_the_right_chain_serve_on_beside_one_of_another(
    net: SolanaLocalnet, foreign_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SolanaRpc([foreign_url, net.url], genesis_hash=net.genesis_hash) as rpc:
        await queries.block_height(rpc)
        await queries.block_height(rpc)
    assert [record.message for record in caplog.records if ANOTHER_GENESIS in record.message] != []
    assert net.chain.calls["getBlockHeight"] == 2


async def test_without_an_expected_chain_the_first_endpoint_says_which(net: SolanaLocalnet, foreign_url: str) -> None:
    async with SolanaRpc([net.url, foreign_url]) as rpc:
        assert await rpc.genesis_hash() == net.genesis_hash
        net.chain.fail("getBlockHeight")
        with pytest.raises(Transient):
            await queries.block_height(rpc)


@pytest.mark.parametrize("failure", ["status", "refused", "preflight", "wrong chain", "no connection"])
async def test_no_part_of_an_url_beyond_its_host_is_ever_shown(
    net: SolanaLocalnet, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Providers put API keys into the path, the query or the user part of the URL."""
    caplog.set_level(logging.DEBUG)
    host = (dead_url() if failure == "no connection" else net.url).removeprefix("http://")
    url = f"http://user:{SECRET}@{host}/?api-key={SECRET}"
    genesis_hash = "another" if failure == "wrong chain" else ""
    if failure in ("status", "refused"):
        net.chain.fail("getBlockHeight", status=503 if failure == "status" else 403)
    async with SolanaRpc([url], genesis_hash=genesis_hash) as rpc:
        sending = failure == "preflight"
        asking = rpc.send("AAAA", preflight=True) if sending else queries.block_height(rpc)
        with pytest.raises((Transient, Permanent)) as caught:
            await asking
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert SECRET not in shown
    assert f"http://{host}" in str(caught.value)
    assert redact(f"see {url}") == f"see http://user:{MASK}@{host}/?{MASK}"


async def test_short_words_of_an_address_stay_readable_and_long_ones_are_masked(
    net: SolanaLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mainnet` at the end of an address was masked in everything that anybody printed."""
    monkeypatch.setattr(redaction, "_secrets", set())
    user = "account"
    url = net.url.replace("http://", f"http://{user}@")
    async with (
        SolanaRpc([f"{url}/mainnet?cluster=devnet"], genesis_hash=""),
        SolanaRpc([f"{net.url}/{SECRET}-path?a=b&key={SECRET}-query"], genesis_hash=""),
    ):
        assert redact("mainnet devnet cluster=devnet") == "mainnet devnet cluster=devnet"
        assert redact(f"{user} {SECRET}-path {SECRET}-query") == f"{MASK} {MASK} {MASK}"


async def test_a_forbidden_endpoint_is_refused_for_good_with_a_hint(net: SolanaLocalnet) -> None:
    net.chain.fail("getBlockHeight", status=403)
    async with SolanaRpc([net.url]) as rpc:
        with pytest.raises(EndpointRefused) as caught:
            await queries.block_height(rpc)
    assert "SOLANA_RPC_URL" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["", "localhost:8899", "ftp://host/key", "http://", "http://host:port/key", "ws://h/key"]
)
async def test_what_is_no_http_url_is_refused_unquoted(url: str) -> None:
    with pytest.raises(Permanent) as caught:
        SolanaRpc([url])
    assert "key" not in str(caught.value)


async def test_without_endpoints_the_setting_is_named() -> None:
    with pytest.raises(Permanent, match="SOLANA_RPC_URL"):
        SolanaRpc([])


async def test_unit_limit_and_fee_come_from_the_simulation_and_the_market(net: SolanaLocalnet) -> None:
    net.chain.set_priority_fee(40_000)
    try:
        async with SolanaRpc([net.url]) as rpc:
            transaction = await signed(net, rpc, "priced")
            await rpc.send(transaction.payload, preflight=True)
            net.chain.advance(3)
            paid = await queries.transaction_fee(rpc, transaction.signature)
    finally:
        net.chain.set_priority_fee(0)
    assert paid == 5_000 + transaction.priority_fee_lamports
    assert 40_000 * 5_000 <= transaction.priority_fee_lamports * 10**6 <= 40_000 * 20_000


@pytest.mark.parametrize("answer", ["", "not base58: 0OIl", "\x1b[2J/../#" + "A" * 5_000, "abc"])
async def test_a_genesis_hash_that_is_none_is_refused(stubborn: StubbornNode, answer: str) -> None:
    """It becomes part of every job's key, and so of logs, file names and idempotency keys."""
    stubborn.genesis_hash = answer
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(EndpointRefused, match="gives no genesis hash"):
            await rpc.genesis_hash()


@pytest.mark.parametrize("code", [-32005, -32016])
async def test_an_error_without_its_details_is_an_error_like_any_other(stubborn: StubbornNode, code: int) -> None:
    """Pins a panic of solders, which is no Exception: it went through every `except` and ended the look for jobs."""
    stubborn.answer = {"error": {"code": code, "message": "no"}}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient):
            await READS["getProgramAccounts"](rpc)


@pytest.mark.parametrize("method", ["getBalance", "getMinimumBalanceForRentExemption", "getBlockHeight"])
@pytest.mark.parametrize("number", [-1, 1 << 64, 10**400])
async def test_a_number_that_no_chain_has_is_not_believed(stubborn: StubbornNode, method: str, number: int) -> None:
    stubborn.answer = {"result": {"context": {"slot": 1}, "value": number} if method == "getBalance" else number}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient, match="not Solana's JSON-RPC"):
            await READS[method](rpc)


@pytest.mark.parametrize("units", [-5, 10**400])
async def test_units_that_no_chain_has_are_not_believed(stubborn: StubbornNode, units: int) -> None:
    """Pins an OverflowError in the computation of the unit limit."""
    stubborn.answer = {"result": {"context": {"slot": 1}, "value": {"err": None, "unitsConsumed": units}}}
    transaction = VersionedTransaction.default()
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient, match="not Solana's JSON-RPC"):
            await queries.simulate(rpc, transaction, 1)


@pytest.mark.parametrize("blockhash", ["", "words", "1" * 100, "\ud800"])
async def test_a_blockhash_that_is_none_is_not_believed(stubborn: StubbornNode, blockhash: str) -> None:
    """Pins a ParseHashError of solders out of signing a transaction."""
    stubborn.answer = {"result": {"context": {"slot": 1}, "value": {"blockhash": blockhash, "lastValidBlockHeight": 9}}}
    async with SolanaRpc([stubborn.url]) as rpc:
        with pytest.raises(Transient, match="not Solana's JSON-RPC"):
            await queries.latest_blockhash(rpc)
