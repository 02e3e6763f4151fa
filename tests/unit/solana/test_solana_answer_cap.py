"""A node that answers more than anybody can want is cut off while it talks, and memory stays where it was."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from answering_node import listening, response
from solders.pubkey import Pubkey

from localnet.solana import SolanaLocalnet
from millrace.limits import MIB
from protocols.solana import answer_cap, queries
from protocols.solana.job_account import ACCOUNT_BYTES, DISCRIMINATOR_BASE58
from protocols.solana.rpc import SolanaRpc
from protocols.solana.rpc_errors import EndpointBusy, EndpointRefused

PROGRAM = Pubkey.from_bytes(bytes(range(32)))
GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"


@pytest.fixture(scope="module")
def net() -> Iterator[SolanaLocalnet]:
    with SolanaLocalnet(slot_milliseconds=50) as running:
        yield running


async def ask(rpc: SolanaRpc, method: str) -> None:
    if method == "getBlockHeight":
        await queries.block_height(rpc)
    else:
        starts = [(0, DISCRIMINATOR_BASE58)]
        await queries.program_addresses(rpc, PROGRAM, account_bytes=ACCOUNT_BYTES, starts=starts)


async def peak_bytes_of(net: SolanaLocalnet, method: str, kind: str) -> int:
    """How much memory one call took whose first answer is hostile; the same node is there twice."""
    async with SolanaRpc([net.url, net.url]) as rpc:
        await ask(rpc, method)
        net.chain.calls.clear()
        net.chain.fail(method, kind=kind)  # type: ignore[arg-type]
        tracemalloc.start()
        try:
            await ask(rpc, method)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert net.chain.calls[method] == 2


@pytest.mark.parametrize("kind", ["endless", "gzip_bomb"])
@pytest.mark.parametrize("method", ["getBlockHeight", "getProgramAccounts"])
async def test_an_answer_without_an_end_is_cut_off_and_another_node_is_asked(
    net: SolanaLocalnet, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(answer_cap, "MOST_LISTING_BYTES", 20 * MIB)  # the real cap is slow to reach under tracemalloc
    assert await peak_bytes_of(net, method, kind) < 64 * MIB


async def test_without_the_cap_the_same_answer_takes_all_the_memory_it_likes(
    net: SolanaLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The injection is real: what holds the memory above is the cap."""
    monkeypatch.setattr(answer_cap, "MOST_BYTES", 128 * MIB)
    assert await peak_bytes_of(net, "getBlockHeight", "gzip_bomb") > 120 * MIB
    net.chain.fail("getBlockHeight", kind="gzip_bomb")
    body = {"jsonrpc": "2.0", "id": 1, "method": "getBlockHeight"}
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("POST", net.url, json=body) as answer:
        sizes = [len(piece) async for piece in answer.aiter_raw()]
    assert sum(sizes) < 2 * MIB


@pytest.mark.parametrize("kind", ["endless", "gzip_bomb"])
async def test_a_node_that_is_alone_and_once_never_ended_is_asked_again(net: SolanaLocalnet, kind: str) -> None:
    """It was told to use another endpoint, and the job's attempt failed for good, over one broken answer."""
    net.chain.fail("getBlockHeight", kind=kind)
    async with SolanaRpc([net.url]) as rpc:
        with pytest.raises(EndpointBusy, match="at more length") as caught:
            await queries.block_height(rpc)
        assert caught.value.hint
        assert await queries.block_height(rpc) > 0


async def test_a_node_that_is_alone_and_lists_too_much_is_refused_with_what_to_do(
    net: SolanaLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_cap, "MOST_LISTING_BYTES", MIB)
    net.chain.fail("getProgramAccounts", kind="endless")
    async with SolanaRpc([net.url]) as rpc:
        with pytest.raises(EndpointRefused, match="at more length") as caught:
            await ask(rpc, "getProgramAccounts")
        assert caught.value.hint


@contextmanager
def node(listing: bytes, encoding: str) -> Iterator[str]:
    """A node that knows its genesis and one listing."""

    def answer(request: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        if request["method"] != "getProgramAccounts":
            return response(request, {"result": GENESIS}), {}
        return listing, {"content-encoding": encoding} if encoding else {}

    with listening(answer) as url:
        yield url


def listing_of(count: int) -> bytes:
    """A listing of `count` accounts, as long as the longest that a node writes for each."""
    account = {
        "lamports": 1,
        "owner": str(PROGRAM),
        "data": ["", "base64"],
        "executable": False,
        "rentEpoch": 2**64 - 1,
    }
    line = json.dumps({"pubkey": str(PROGRAM), "account": {**account, "space": ACCOUNT_BYTES}}) + " " * 400
    return f'{{"jsonrpc":"2.0","id":0,"result":[{",".join([line] * count)}]}}'.encode()


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_listing_of_a_hundred_thousand_accounts_passes(encoding: str) -> None:
    body = listing_of(100_000)
    assert len(body) > 60_000_000
    with node(gzip.compress(body, 1) if encoding else body, encoding) as url:
        async with SolanaRpc([url]) as rpc:
            found = await queries.program_addresses(
                rpc, PROGRAM, account_bytes=ACCOUNT_BYTES, starts=[(0, DISCRIMINATOR_BASE58)]
            )
    assert len(found) == 100_000


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"not gzip", "gzip"), (b"x", "br"), (gzip.compress(b"{}")[:-9], "gzip")]
)
async def test_an_answer_that_cannot_be_unpacked_is_no_answer(body: bytes, encoding: str) -> None:
    with node(body, encoding) as url:
        async with SolanaRpc([url]) as rpc:
            with pytest.raises(EndpointBusy):
                await ask(rpc, "getProgramAccounts")
