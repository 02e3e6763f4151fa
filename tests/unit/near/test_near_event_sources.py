"""Requests found on the chain, from whole blocks and from plain RPC: none lost, none invented."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from near_requests import request_args

from localnet.http_server import Connection, StandInServer
from localnet.near import RELAY, REQUESTER, Dialect, NearLocalnet
from millrace.errors import Permanent, Transient
from protocols.near.answers import Block
from protocols.near.events import BlockSource, Cursor, GapInChain, SeenHeight, SeenRequest
from protocols.near.neardata import NeardataSource, _same_house
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import NodeBusy, UnknownBlock
from protocols.near.rpc_events import RpcSource

MakeSource = Callable[[], BlockSource]


@pytest.fixture(params=["neardata", "rpc"])
async def source(request: pytest.FixtureRequest, net: NearLocalnet, rpc: NearRpc) -> AsyncIterator[BlockSource]:
    async with AsyncExitStack() as stack:
        if request.param == "rpc":
            yield RpcSource(rpc, net.contract_id)
        else:
            yield await stack.enter_async_context(NeardataSource(net.url, net.contract_id, timeout_seconds=3))


async def read(source: BlockSource, cursor: Cursor) -> tuple[list[SeenRequest], Cursor]:
    """Everything up to the head, as a worker reads it."""
    found: list[SeenRequest] = []
    while (seen := await source.at(cursor.next_height)) is not None:
        assert seen.unreadable == ()
        found += seen.requests
        cursor = cursor.after(seen)
    return found, cursor


async def test_every_request_is_found_once_in_order(net: NearLocalnet, source: BlockSource) -> None:
    for _ in range(3):
        net.chain.request(request_args(net.dialect))
        net.chain.request(request_args(net.dialect))
        net.chain.make_block(2)
    net.chain.make_block()
    found, cursor = await read(source, Cursor(1000))
    assert [seen.request.request_id for seen in found] == [0, 1, 2, 3, 4, 5]
    assert found[0].context.block_height == 1002
    assert cursor.last_height in (net.chain.height(), net.chain.height() - 1)
    again, later = await read(source, cursor)
    assert (again, later) == ([], cursor)


async def test_where_a_request_was_made(net: NearLocalnet, source: BlockSource) -> None:
    tx_hash = net.chain.request(request_args(net.dialect), relayed=True)
    net.chain.make_block(5)
    (seen,), _ = await read(source, Cursor(1000))
    head = net.dialect is Dialect.head
    assert seen.request.sender_id == (REQUESTER if head else RELAY)
    assert seen.request.predecessor_id == (RELAY if head else None)
    block = net.chain.block(seen.context.block_height)
    assert block is not None
    assert seen.context.predecessor_id == RELAY
    assert seen.context.transaction_hash == tx_hash
    assert seen.context.block_timestamp_ns == block.timestamp_ns == seen.request.timestamp_ns
    assert seen.context.gas_burnt > 0
    assert (seen.context.signer_public_key or "").startswith("ed25519:")


async def test_the_height_after_the_head_is_waited_for(net: NearLocalnet, source: BlockSource) -> None:
    """The early worker takes 404 for an empty block and runs past the head, losing what comes there."""
    head = net.chain.height()
    assert await source.at(head + 1) is None
    assert await source.at(head + 100) is None
    net.chain.make_block(2)
    seen = await source.at(head + 1)
    assert seen is not None
    assert not seen.skipped


async def test_a_height_without_a_block_is_skipped(net: NearLocalnet, source: BlockSource) -> None:
    net.chain.request(request_args(net.dialect))
    net.chain.make_block()
    net.chain.skip_heights(3)
    net.chain.make_block(2)
    head = net.chain.height()
    assert await source.at(head - 2) == SeenHeight(head - 2, skipped=True)
    found, cursor = await read(source, Cursor(1000))
    assert len(found) == 1
    assert cursor.next_height > head - 2


@pytest.mark.parametrize("fault", ["status", "hang", "reset", "malformed", "other_json", "cut"])
async def test_no_fault_makes_a_height_go_by(net: NearLocalnet, source: BlockSource, fault: str) -> None:
    """The public workers skip a block after three failures."""
    net.chain.request(request_args(net.dialect))
    net.chain.make_block(3)
    net.chain.fail("*", kind=fault, times=2, seconds=0.2)
    faults = 0
    cursor, found = Cursor(1002), []
    while not found:
        try:
            seen = await source.at(cursor.next_height)
        except Transient:
            faults += 1
            assert faults < 20
            continue
        assert seen is not None
        found += seen.requests
    assert faults >= 2
    assert found[0].request.request_id == 0


async def test_what_a_failed_receipt_logged_never_happened(net: NearLocalnet, source: BlockSource) -> None:
    """Both public workers make tasks of the logs of failed receipts."""
    log = net.chain.contract._request

    def logs_and_panics(args: object, env: object) -> object:
        from localnet.near.environment import panic

        log(args, env)  # type: ignore[arg-type]
        raise panic("after the event")

    net.chain.contract._request = logs_and_panics  # type: ignore[assignment, method-assign]
    tx_hash = net.chain.request(request_args(net.dialect))
    net.chain.make_block(4)
    assert "Failure" in net.chain.result_of(tx_hash)
    (outcome, *_) = net.chain.outcomes_of(tx_hash)
    assert "execution_requested" in outcome.logs[0]
    assert (await read(source, Cursor(1000)))[0] == []


async def test_events_of_another_contract_are_not_ours(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.request(request_args(net.dialect), relayed=True)
    net.chain.make_block(5)
    async with NeardataSource(net.url, RELAY) as whole_blocks:
        assert (await read(whole_blocks, Cursor(1000)))[0] == []
    assert (await read(RpcSource(rpc, RELAY), Cursor(1000)))[0] == []


async def test_a_node_that_maps_no_receipts_leaves_out_the_transaction(net: NearLocalnet, rpc: NearRpc) -> None:
    net.chain.track_no_receipts()
    net.chain.request(request_args(net.dialect))
    net.chain.make_block(3)
    (seen,), _ = await read(RpcSource(rpc, net.contract_id), Cursor(1000))
    assert seen.context.transaction_hash is None
    assert seen.context.predecessor_id == REQUESTER


async def test_a_block_that_the_node_lost_is_not_skipped(net: NearLocalnet, rpc: NearRpc) -> None:
    """A node says the same of a height without a block and of a block that it has no more."""
    net.chain.make_block(5)

    class Forgetful(NearRpc):
        async def block(self, reference: int | str | None = None, **more: object) -> Block:  # type: ignore[override]
            if reference == 1002:
                raise UnknownBlock("gone")
            return await super().block(reference)

    async with Forgetful([net.url]) as forgetful:
        with pytest.raises(NodeBusy, match="no node has block 1002") as caught:
            await RpcSource(forgetful, net.contract_id).at(1002)
    assert "archival" in caught.value.hint


async def test_a_server_that_sends_another_block_is_not_believed(net: NearLocalnet) -> None:
    net.chain.make_block(3)
    async with NeardataSource(f"{net.url}/v0/block/1001?was={{block_id}}", net.contract_id) as wrong:
        with pytest.raises(Transient, match="asked for block 1002"):
            await wrong.at(1002)


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v0/block", "{}/v0/block/{{block_id}}", "{}?api_key=k", "{}/?k=v"])
async def test_each_form_of_the_servers_address_works(net: NearLocalnet, form: str) -> None:
    """The public workers' default has no placeholder where their code wants one, and a query breaks it."""
    net.chain.make_block()
    async with NeardataSource(form.format(net.url), net.contract_id) as source:
        seen = await source.at(1001)
        assert seen is not None
        assert seen.block_hash


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/old/5", "https://main.neardata.test/old/5"),
        ("https://a0.main.neardata.test/v0/block/5", "https://a0.main.neardata.test/v0/block/5"),
        ("//a1.main.neardata.test/5", "https://a1.main.neardata.test/5"),
        ("http://main.neardata.test/5", ""),
        ("https://neardata.test/5", ""),
        ("https://evilmain.neardata.test/5", ""),
        ("https://169.254.169.254/latest", ""),
        ("file:///etc/passwd", ""),
        ("https://[::1/", ""),
    ],
)
def test_a_redirect_is_followed_within_the_servers_own_hosts_only(location: str, target: str) -> None:
    assert _same_house("https://main.neardata.test/v0/block/5", location) == target


async def test_old_blocks_are_read_where_the_server_says_they_are(net: NearLocalnet) -> None:
    net.chain.make_block()

    class Moved(Connection):
        def on_get(self) -> None:
            self.reply(302, b"moved", {"location": f"{net.url}{self.path}" if "1001" in self.path else "http://x/"})

    server = StandInServer(0, Moved, "moved")
    server.start()
    try:
        async with NeardataSource(server.url, net.contract_id) as source:
            seen = await source.at(1001)
            assert seen is not None
            assert seen.block_hash
            with pytest.raises(Transient, match="not followed"):
                await source.at(1000)
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["", "x", "ftp://x/{block_id}", "http://"])
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(Permanent, match="neardata"):
        NeardataSource(url, "c.near")


def at(height: int, block: str, prev: str) -> SeenHeight:
    return SeenHeight(height, block_hash=block, prev_hash=prev)


def test_a_height_that_was_wrongly_called_empty_is_noticed_at_the_next_block() -> None:
    cursor = Cursor(5).after(at(5, "five", "four")).after(SeenHeight(6, skipped=True))
    with pytest.raises(GapInChain):
        cursor.after(at(7, "seven", "six"))
    back = cursor.rewound()
    assert back == Cursor(6, 5, "five")
    assert back.after(at(6, "six", "five")).after(at(7, "seven", "six")) == Cursor(8, 7, "seven")


def test_a_last_block_that_is_not_the_chains_is_read_again() -> None:
    cursor = Cursor(5).after(at(5, "other", "four"))
    with pytest.raises(GapInChain):
        cursor.after(at(6, "six", "five"))
    assert cursor.rewound() == Cursor(5)


def test_a_cursor_takes_only_what_it_points_to() -> None:
    with pytest.raises(ValueError, match="height 5"):
        Cursor(5).after(at(6, "six", "five"))


@given(st.lists(st.booleans(), max_size=40))
def test_a_cursor_never_moves_by_more_than_one(skips: list[bool]) -> None:
    cursor, last = Cursor(0), "genesis"
    for height, skipped in enumerate(skips):
        assert cursor.next_height == height
        cursor = cursor.after(SeenHeight(height, skipped=True) if skipped else at(height, f"b{height}", last))
        last = last if skipped else f"b{height}"
    assert cursor.next_height == len(skips)
