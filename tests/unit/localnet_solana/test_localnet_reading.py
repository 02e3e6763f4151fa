"""Reading accounts: filters, slices, encodings, limits, and the index behind them."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from job_abi import PROGRAM, initialize, job_address, signed
from rpc_client import RpcClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from localnet.solana import SolanaLocalnet, base58
from localnet.solana.accounts import StoredAccount
from localnet.solana.program import PROGRAM_ID
from localnet.solana.runtime import SYSTEM_PROGRAM

JOB = bytes.fromhex("4b7c50cba1b4ca50")
CONTENTS = {
    "short": JOB + b"x" * 92,
    "job a": JOB + b"a" * 32 + bytes(268),
    "job b": JOB + b"b" * 32 + bytes(268),
    "other": b"12345678" + b"a" * 32 + bytes(268),
}


@pytest.fixture
def addresses(net: SolanaLocalnet) -> dict[str, str]:
    made = {name: str(Pubkey.new_unique()) for name in CONTENTS}
    net.chain.seed_accounts(
        (made[name], StoredAccount(10**7, PROGRAM_ID, content)) for name, content in CONTENTS.items()
    )
    return made


def _memcmp(offset: int, content: bytes, encoding: str | None = None) -> dict[str, Any]:
    text = base64.b64encode(content).decode() if encoding == "base64" else base58.encode(content)
    return {"memcmp": {"offset": offset, "bytes": text, **({"encoding": encoding} if encoding else {})}}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], {"short", "job a", "job b", "other"}),
        ([{"dataSize": 308}], {"job a", "job b", "other"}),
        ([_memcmp(0, JOB)], {"short", "job a", "job b"}),
        ([_memcmp(0, JOB, "base64"), {"dataSize": 308}], {"job a", "job b"}),
        ([_memcmp(0, JOB, "base58"), _memcmp(8, b"a" * 32, "base64")], {"job a"}),
        ([{"memcmp": {"offset": 8, "bytes": [98, 98]}}], {"job b"}),
        ([_memcmp(300, bytes(8)), _memcmp(0, b"1"), {"dataSize": 308}], {"other"}),
        ([_memcmp(301, bytes(8))], set()),
    ],
)
def test_program_accounts_pass_every_filter(
    rpc: RpcClient, addresses: dict[str, str], filters: list[Any], expected: set[str]
) -> None:
    found = rpc("getProgramAccounts", PROGRAM_ID, {"encoding": "base64", "filters": filters})
    names = {address: name for name, address in addresses.items()}
    assert {names[each["pubkey"]] for each in found} == expected


@pytest.mark.parametrize(
    "filters",
    [
        [{"dataSize": 308}] * 5,
        [_memcmp(0, b"x" * 129)],
        [{"tokenAccountState": True}],
        [{"memcmp": {"offset": 0, "bytes": "0OIl"}}],
        [{"memcmp": {"offset": -1, "bytes": "1"}}],
        [{"dataSize": "308"}],
        "dataSize",
    ],
)
def test_filters_beyond_what_a_node_takes_are_refused(rpc: RpcClient, filters: Any) -> None:
    assert rpc.error("getProgramAccounts", PROGRAM_ID, {"filters": filters})["code"] == -32602


def test_a_slice_cuts_the_content_and_leaves_the_size(rpc: RpcClient, addresses: dict[str, str]) -> None:
    config = {"encoding": "base64", "dataSlice": {"offset": 6, "length": 4}, "filters": [_memcmp(8, b"b")]}
    (only,) = rpc("getProgramAccounts", PROGRAM_ID, config)
    assert base64.b64decode(only["account"]["data"][0]) == CONTENTS["job b"][6:10]
    assert only["account"]["space"] == 308


def test_context_is_added_on_request(net: SolanaLocalnet, rpc: RpcClient, addresses: dict[str, str]) -> None:
    answer = rpc("getProgramAccounts", PROGRAM_ID, {"encoding": "base64", "withContext": True})
    assert answer["context"]["slot"] == net.chain.slot("finalized")
    assert len(answer["value"]) == 4


def test_several_accounts_come_in_the_order_asked_for(rpc: RpcClient, addresses: dict[str, str]) -> None:
    wanted = [addresses["other"], str(Pubkey.new_unique()), addresses["short"]]
    value = rpc("getMultipleAccounts", wanted, {"encoding": "base64"})["value"]
    assert [each and each["space"] for each in value] == [308, None, 100]


def test_at_most_100_accounts_and_256_statuses_at_once(rpc: RpcClient) -> None:
    address, signature = str(PROGRAM), base58.encode(bytes(64))
    assert len(rpc("getMultipleAccounts", [address] * 100, {"encoding": "base64"})["value"]) == 100
    error = rpc.error("getMultipleAccounts", [address] * 101, {"encoding": "base64"})
    assert (error["code"], error["message"]) == (-32602, "Too many inputs provided; max 100")
    assert len(rpc("getSignatureStatuses", [signature] * 256)["value"]) == 256
    error = rpc.error("getSignatureStatuses", [signature] * 257)
    assert (error["code"], error["message"]) == (-32602, "Too many inputs provided; max 256")


def test_base58_is_for_short_content_only(net: SolanaLocalnet, rpc: RpcClient, addresses: dict[str, str]) -> None:
    value = rpc("getAccountInfo", addresses["short"], {"encoding": "base58"})["value"]
    assert base58.decode(value["data"][0]) == CONTENTS["short"]
    assert rpc("getAccountInfo", addresses["short"])["value"]["data"] == value["data"][0]
    assert rpc.error("getAccountInfo", addresses["other"])["code"] == -32600


def test_a_program_is_an_executable_account(rpc: RpcClient) -> None:
    value = rpc("getAccountInfo", PROGRAM_ID, {"encoding": "base64"})["value"]
    assert value["executable"] is True


def test_rent_is_what_the_runtime_demands(rpc: RpcClient) -> None:
    assert rpc("getMinimumBalanceForRentExemption", 308) == 3_034_560


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("getAccountInfo", ["0OIl"]),
        ("getAccountInfo", ["abc"]),
        ("getAccountInfo", [17]),
        ("getAccountInfo", []),
        ("getSlot", [{"commitment": "certain"}]),
        ("getSlot", [[]]),
        ("getSlot", [{}, 2, 3]),
        ("getMultipleAccounts", ["abc"]),
        ("getMinimumBalanceForRentExemption", [-1]),
        ("getMinimumBalanceForRentExemption", [True]),
        ("getSignatureStatuses", [["abc"]]),
        ("getTransaction", [base58.encode(bytes(64)), {"commitment": "processed"}]),
        ("isBlockhashValid", ["abc"]),
        ("getFeeForMessage", ["AAAA"]),
        ("getAccountInfo", [str(PROGRAM), {"encoding": "base91"}]),
        ("getAccountInfo", [str(PROGRAM), {"encoding": "base64", "dataSlice": {"offset": 0}}]),
    ],
)
def test_wrong_parameters_are_an_error_of_the_request(rpc: RpcClient, method: str, params: list[Any]) -> None:
    assert rpc.error(method, *params)["code"] == -32602


def test_an_account_that_changes_owner_leaves_the_old_owners_list(net: SolanaLocalnet, rpc: RpcClient) -> None:
    owner = Keypair()
    job = str(job_address(owner.pubkey(), "hello"))
    for wallet in (job, str(owner.pubkey())):
        net.chain.airdrop(wallet, 10**9)
    rpc.send(signed(initialize(owner.pubkey(), "hello"), owner, rpc.blockhash()))

    def listed(program: str) -> bool:
        found = rpc("getProgramAccounts", program, {"encoding": "base64"})
        return job in [each["pubkey"] for each in found]

    assert (listed(SYSTEM_PROGRAM), listed(PROGRAM_ID)) == (True, False)
    net.chain.advance(32)
    assert (listed(SYSTEM_PROGRAM), listed(PROGRAM_ID)) == (False, True)


def test_a_hundred_thousand_jobs_are_listed_in_seconds(net: SolanaLocalnet, rpc: RpcClient) -> None:
    content = CONTENTS["job a"]
    made = (Pubkey(number.to_bytes(32, "big")) for number in range(1, 100_001))
    assert net.chain.seed_accounts((str(each), StoredAccount(10**7, PROGRAM_ID, content)) for each in made) == 100_000
    config = {
        "encoding": "base64",
        "dataSlice": {"offset": 0, "length": 0},
        "filters": [_memcmp(0, JOB), {"dataSize": 308}],
    }
    started = time.perf_counter()
    assert len(rpc("getProgramAccounts", PROGRAM_ID, config)) == 100_000
    assert time.perf_counter() - started < 15, "a second on a quiet machine; asking the runtime each time takes longer"
