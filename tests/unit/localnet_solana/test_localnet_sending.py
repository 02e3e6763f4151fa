"""Transactions on their way: commitment, expiry, preflight, fees, losses, duplicates."""

from __future__ import annotations

import base64

import pytest
from job_abi import complete, custom, encoded, initialize, job_address, signed
from rpc_client import RpcClient
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from localnet.solana import SolanaLocalnet


def posted(rpc: RpcClient, payer: Keypair, title: str = "hello") -> VersionedTransaction:
    return signed(initialize(payer.pubkey(), title), payer, rpc.blockhash())


def test_a_transaction_climbs_through_the_commitment_levels(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    signature = rpc.send(posted(rpc, payer))
    seen = []
    for slots in (0, 1, 1, 29, 1):
        net.chain.advance(slots)
        status = rpc.status(signature)
        seen.append((status["confirmationStatus"], status["confirmations"]))
        assert (status["err"], status["status"]) == (None, {"Ok": None})
    assert seen == [
        ("processed", 0),
        ("processed", 1),
        ("confirmed", 2),
        ("confirmed", 31),
        ("finalized", None),
    ]


def test_each_commitment_level_sees_the_account_at_its_own_time(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    job = str(job_address(payer.pubkey(), "hello"))
    rpc.send(posted(rpc, payer))

    def visible() -> list[bool]:
        levels = ("processed", "confirmed", "finalized")
        configs = [{"commitment": level, "encoding": "base64"} for level in levels]
        return [rpc("getAccountInfo", job, config)["value"] is not None for config in configs]

    assert visible() == [True, False, False]
    net.chain.advance(2)
    assert visible() == [True, True, False]
    net.chain.advance(30)
    assert visible() == [True, True, True]


def test_the_default_commitment_is_finalized(net: SolanaLocalnet, rpc: RpcClient) -> None:
    assert rpc("getSlot") == rpc("getSlot", {"commitment": "finalized"}) == net.chain.slot() - 32
    assert rpc("getSlot", {"commitment": "confirmed"}) == net.chain.slot() - 2


def test_block_height_and_slot_are_different_numbers_that_advance_together(net: SolanaLocalnet, rpc: RpcClient) -> None:
    before = rpc("getBlockHeight"), rpc("getSlot")
    net.chain.advance(5)
    after = rpc("getBlockHeight"), rpc("getSlot")
    assert after == (before[0] + 5, before[1] + 5)
    assert before[0] < before[1]


@pytest.mark.parametrize(("waited", "lands"), [(150, True), (151, False)])
def test_a_transaction_lands_up_to_its_last_valid_block_height(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair, waited: int, lands: bool
) -> None:
    answer = rpc("getLatestBlockhash", {"commitment": "processed"})["value"]
    transaction = signed(initialize(payer.pubkey(), "hello"), payer, answer["blockhash"])
    net.chain.advance(waited)
    height = rpc("getBlockHeight", {"commitment": "processed"})
    assert (height <= answer["lastValidBlockHeight"]) is lands
    signature = rpc.send(transaction, skipPreflight=True)
    assert (rpc.status(signature) is not None) is lands
    valid = rpc("isBlockhashValid", answer["blockhash"], {"commitment": "processed"})["value"]
    assert valid is lands


def test_preflight_refuses_an_expired_blockhash(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    transaction = posted(rpc, payer)
    net.chain.advance(160)
    error = rpc.refused(transaction)
    assert (error["code"], error["data"]["err"]) == (-32002, "BlockhashNotFound")
    assert error["message"] == "Transaction simulation failed: Blockhash not found"


def test_preflight_at_an_older_commitment_does_not_know_a_newer_blockhash(rpc: RpcClient, payer: Keypair) -> None:
    """The classic: a confirmed blockhash, and the default preflight at finalized."""
    transaction = posted(rpc, payer)
    assert rpc.refused(transaction, preflightCommitment="finalized")["data"]["err"] == "BlockhashNotFound"
    assert rpc.send(transaction, preflightCommitment="confirmed")


def test_preflight_runs_on_the_state_of_its_commitment(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    job = job_address(payer.pubkey(), "hello")
    rpc.send(posted(rpc, payer))
    net.chain.advance(2)
    rpc.send(signed(complete(job, payer.pubkey(), "first"), payer, rpc.blockhash()))
    late = signed(complete(job, payer.pubkey(), "second"), payer, rpc.blockhash())
    assert rpc.refused(late, preflightCommitment="processed")["data"]["err"] == custom(6003)
    signature = rpc.send(late, preflightCommitment="confirmed")  # to that state the job is still pending
    assert rpc.status(signature)["err"] == custom(6003)
    account = net.chain.account(str(job))
    assert account is not None
    assert b"first" in account.content
    assert b"second" not in account.content


def test_a_program_error_in_preflight_is_told_in_full(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    nowhere = job_address(payer.pubkey(), "never posted")
    error = rpc.refused(signed(complete(nowhere, payer.pubkey()), payer, rpc.blockhash()))
    assert error["code"] == -32002
    assert error["message"] == (
        "Transaction simulation failed: Error processing Instruction 0: custom program error: 0xbc4"
    )
    assert error["data"]["err"] == custom(3012)
    assert error["data"]["unitsConsumed"] > 0
    assert any("AccountNotInitialized" in line for line in error["data"]["logs"])


def test_without_preflight_a_failing_transaction_lands_and_pays(rpc: RpcClient, payer: Keypair) -> None:
    nowhere = job_address(payer.pubkey(), "never posted")
    before = rpc("getBalance", str(payer.pubkey()), {"commitment": "processed"})["value"]
    transaction = signed(complete(nowhere, payer.pubkey()), payer, rpc.blockhash())
    signature = rpc.send(transaction, skipPreflight=True)
    status = rpc.status(signature)
    assert (status["err"], status["status"]) == (custom(3012), {"Err": custom(3012)})
    assert before - rpc("getBalance", str(payer.pubkey()), {"commitment": "processed"})["value"] == 5_000


def test_fees_are_5000_lamports_a_signature_and_the_priority_fee(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    other = Keypair()
    net.chain.airdrop(str(other.pubkey()), 10**9)
    payment = transfer(TransferParams(from_pubkey=other.pubkey(), to_pubkey=payer.pubkey(), lamports=1))
    budget = [set_compute_unit_limit(100_000), set_compute_unit_price(30_001)]
    transaction = signed([*budget, payment], payer, rpc.blockhash(), other)
    assert rpc("getFeeForMessage", _message(transaction), {"commitment": "confirmed"})["value"] == 10_000 + 3_001
    signature = rpc.send(transaction)
    net.chain.advance(2)
    meta = rpc("getTransaction", signature, {"commitment": "confirmed"})["meta"]
    assert meta["fee"] == 10_000 + 3_001
    assert meta["preBalances"][0] - meta["postBalances"][0] == meta["fee"] - 1


def test_the_fee_of_a_message_whose_blockhash_expired_is_null(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    transaction = posted(rpc, payer)
    net.chain.advance(200)
    assert rpc("getFeeForMessage", _message(transaction))["value"] is None


@pytest.mark.parametrize("lamports", [0, 4_999])
def test_a_payer_that_cannot_pay_the_fee_never_lands(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair, lamports: int
) -> None:
    poor = Keypair()
    if lamports:
        net.chain.airdrop(str(poor.pubkey()), lamports)
    transaction = signed(initialize(poor.pubkey(), "hello"), poor, rpc.blockhash())
    assert rpc.refused(transaction)["data"]["err"] in ("AccountNotFound", "InsufficientFundsForFee")
    assert rpc.status(rpc.send(transaction, skipPreflight=True)) is None


def test_the_same_bytes_again_are_already_processed(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    transaction = posted(rpc, payer)
    signature = rpc.send(transaction)
    assert rpc.send(transaction) == signature, "the confirmed state does not know it yet"
    net.chain.advance(2)
    error = rpc.refused(transaction)
    assert (error["code"], error["data"]["err"]) == (-32002, "AlreadyProcessed")
    assert error["message"] == "Transaction simulation failed: This transaction has already been processed"
    assert rpc.send(transaction, skipPreflight=True) == signature
    assert net.chain.landed(str(job_address(payer.pubkey(), "hello"))) == [signature]


def test_a_dropped_transaction_is_accepted_and_never_heard_of_again(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    transaction = posted(rpc, payer)
    net.chain.drop_next(2)
    signature = rpc.send(transaction)
    rpc.send(transaction)
    net.chain.advance(10)
    assert rpc.status(signature) is None
    rpc.send(transaction)
    assert rpc.status(signature) is not None


def test_a_held_transaction_lands_when_its_slot_comes(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    net.chain.hold_next(1, slots=5)
    sent_at = net.chain.slot()
    signature = rpc.send(posted(rpc, payer))
    net.chain.advance(4)
    assert rpc.status(signature) is None
    net.chain.advance(3)
    assert rpc.status(signature)["slot"] == sent_at + 5


def test_a_transaction_held_beyond_its_blockhash_is_lost(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    net.chain.hold_next(1, slots=150)
    signature = rpc.send(posted(rpc, payer))
    net.chain.advance(200)
    assert rpc.status(signature, searchTransactionHistory=True) is None


def test_a_wrong_signature_is_refused_or_silently_dropped(rpc: RpcClient, payer: Keypair) -> None:
    right = posted(rpc, payer)
    forged = VersionedTransaction.populate(right.message, [Signature.new_unique()])
    assert rpc.refused(forged)["code"] == -32003
    assert rpc.status(rpc.send(forged, skipPreflight=True)) is None


def test_a_node_behind_min_context_slot_says_so(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    ahead = net.chain.slot() + 1
    error = rpc.refused(posted(rpc, payer), minContextSlot=ahead)
    assert error["code"] == -32016
    assert error["message"] == "Minimum context slot has not been reached"
    assert error["data"] == {"contextSlot": net.chain.slot() - 2}
    net.chain.advance(3)
    assert rpc.send(posted(rpc, payer), minContextSlot=ahead)


def test_old_statuses_need_a_search_of_the_history(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    signature = rpc.send(posted(rpc, payer))
    net.chain.advance(301)
    assert rpc.status(signature) is None
    assert rpc.status(signature, searchTransactionHistory=True)["confirmationStatus"] == "finalized"


def test_a_simulation_changes_nothing_and_tells_units_and_accounts(rpc: RpcClient, payer: Keypair) -> None:
    job = str(job_address(payer.pubkey(), "hello"))
    config = {"encoding": "base64", "commitment": "confirmed", "accounts": {"addresses": [job], "encoding": "base64"}}
    value = rpc("simulateTransaction", encoded(posted(rpc, payer)), config)["value"]
    assert (value["err"], value["accounts"][0]["space"]) == (None, 308)
    assert value["unitsConsumed"] > 3_000
    assert rpc("getAccountInfo", job, {"commitment": "processed"})["value"] is None


def test_a_simulation_may_replace_an_expired_blockhash(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    transaction = encoded(posted(rpc, payer))
    net.chain.advance(500)
    assert rpc("simulateTransaction", transaction, {"encoding": "base64"})["value"]["err"] == "BlockhashNotFound"
    config = {"encoding": "base64", "replaceRecentBlockhash": True}
    value = rpc("simulateTransaction", transaction, config)["value"]
    assert value["err"] is None
    assert rpc("isBlockhashValid", value["replacementBlockhash"]["blockhash"])["value"]
    both = rpc.error("simulateTransaction", transaction, {**config, "sigVerify": True})
    assert both["code"] == -32602


def test_a_simulation_checks_signatures_only_on_request(rpc: RpcClient, payer: Keypair) -> None:
    unsigned = VersionedTransaction.populate(posted(rpc, payer).message, [Signature.default()])
    config = {"encoding": "base64", "commitment": "confirmed"}
    assert rpc("simulateTransaction", encoded(unsigned), config)["value"]["err"] is None
    assert rpc.error("simulateTransaction", encoded(unsigned), {**config, "sigVerify": True})["code"] == -32003


def test_transactions_are_found_by_address_newest_first(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    signatures = []
    for title in ("a", "b", "c"):
        signatures.append(rpc.send(posted(rpc, payer, title)))
        net.chain.advance(1)
    net.chain.advance(2)
    wallet = str(payer.pubkey())

    def found(**config: object) -> list[str]:
        answer = rpc("getSignaturesForAddress", wallet, {"commitment": "confirmed", **config})
        return [each["signature"] for each in answer]

    assert found() == signatures[::-1]
    assert found(limit=1) == [signatures[2]]
    assert found(before=signatures[2]) == [signatures[1], signatures[0]]
    assert found(until=signatures[0]) == [signatures[2], signatures[1]]
    assert rpc("getSignaturesForAddress", wallet) == [], "nothing is finalized yet"
    assert rpc.error("getSignaturesForAddress", wallet, {"limit": 1001})["code"] == -32602


def test_recent_priority_fees_are_what_others_paid_for_the_same_account(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    paid = [set_compute_unit_price(1_234), initialize(payer.pubkey(), "hello")]
    rpc.send(signed(paid, payer, rpc.blockhash()))
    slot = net.chain.slot()
    net.chain.advance(3)
    job = str(job_address(payer.pubkey(), "hello"))
    assert [fee for fee in rpc("getRecentPrioritizationFees", [job]) if fee["prioritizationFee"]] == [
        {"slot": slot, "prioritizationFee": 1_234}
    ]
    stranger = rpc("getRecentPrioritizationFees", [str(Keypair().pubkey())])
    assert {fee["prioritizationFee"] for fee in stranger} == {0}
    net.chain.set_priority_fee(500)
    fees = {fee["prioritizationFee"] for fee in rpc("getRecentPrioritizationFees", [job])}
    assert fees == {500, 1_234}


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ("@@@@", "base64", "invalid base64 encoding"),
        ("0OIl", "base58", "invalid base58 encoding"),
        ("AAAA", "base64", "failed to deserialize"),
        ("A" * 1_645, "base64", "too large"),
        ("AAAA", "hex", "unsupported encoding"),
        (7, "base64", "expected a string"),
    ],
)
def test_what_is_no_transaction_is_refused(rpc: RpcClient, text: object, encoding: str, words: str) -> None:
    error = rpc.error("sendTransaction", text, {"encoding": encoding})
    assert error["code"] == -32602
    assert words in error["message"]


def test_an_airdrop_is_a_transaction_of_the_faucet(net: SolanaLocalnet, rpc: RpcClient) -> None:
    wallet = str(Keypair().pubkey())
    signatures = [rpc("requestAirdrop", wallet, 2_000_000) for _ in range(2)]
    assert len(set(signatures)) == 2
    assert rpc("getBalance", wallet, {"commitment": "processed"})["value"] == 4_000_000
    assert rpc("getBalance", wallet)["value"] == 0
    net.chain.advance(32)
    assert rpc("getBalance", wallet)["value"] == 4_000_000


def test_lamports_given_in_process_are_final_at_once(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    rpc.send(posted(rpc, payer))
    net.chain.advance(1)
    levels = ("processed", "confirmed", "finalized")
    wallet = str(payer.pubkey())
    before = [rpc("getBalance", wallet, {"commitment": level})["value"] for level in levels]
    net.chain.airdrop(wallet, 7)
    after = [rpc("getBalance", wallet, {"commitment": level})["value"] for level in levels]
    assert after == [lamports + 7 for lamports in before]
    assert len(set(before)) == 2


def _message(transaction: VersionedTransaction) -> str:
    return base64.b64encode(to_bytes_versioned(transaction.message)).decode()


def test_a_fork_that_lost_takes_back_what_landed_on_it_and_the_same_bytes_land_again(
    net: SolanaLocalnet, rpc: RpcClient, payer: Keypair
) -> None:
    job = str(job_address(payer.pubkey(), "hello"))
    net.chain.advance(40)
    before = net.chain.account(str(payer.pubkey()))
    transaction = posted(rpc, payer)
    signature = rpc.send(transaction)
    net.chain.advance(3)
    assert rpc.status(signature)["confirmationStatus"] == "confirmed"
    assert net.chain.rollback(4) == net.chain.faults.served["rolled_back"] == 1
    assert rpc.status(signature) is None
    assert net.chain.account(job) is None
    assert net.chain.account(str(payer.pubkey())) == before, "the fee is back too"
    assert net.chain.landed(job) == []
    rpc.send(transaction)
    assert net.chain.landed(job) == [signature]


def test_what_is_finalized_is_not_taken_back(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    signature = rpc.send(posted(rpc, payer))
    net.chain.advance(32)
    assert net.chain.rollback(32) == 0
    assert rpc.status(signature)["confirmationStatus"] == "finalized"
    with pytest.raises(ValueError, match="not final"):
        net.chain.rollback(33)
