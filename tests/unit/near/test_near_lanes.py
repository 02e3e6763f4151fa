"""One key's nonces, and the proof that a transaction can land no more."""

from __future__ import annotations

from near_requests import signed

from localnet.near import OPERATOR, Dialect, NearLocalnet
from protocols.near.answers import WaitUntil
from protocols.near.lanes import VALIDITY_BLOCKS, cannot_land, next_nonce
from protocols.near.rpc import NearRpc
from protocols.near.transactions import FunctionCall

CALL = FunctionCall("cancel_stale_execution", b'{"request_id":0}', 10**13)


def test_the_next_nonce_is_above_all_that_may_still_land() -> None:
    assert next_nonce(7) == 8
    assert next_nonce(7, [3, 9, 8]) == 10


def test_a_transaction_is_dead_only_when_what_is_final_says_so() -> None:
    assert not cannot_land(8, 100, final_nonce=7, final_height=100 + VALIDITY_BLOCKS)
    assert cannot_land(8, 100, final_nonce=8, final_height=101)
    assert cannot_land(8, 100, final_nonce=7, final_height=101 + VALIDITY_BLOCKS)


async def test_a_transaction_that_was_overtaken_never_lands() -> None:
    with NearLocalnet(Dialect.head, finality_lag=2) as net:
        net.chain.freeze()
        height = net.chain.make_block(3)
        async with NearRpc([net.url], timeout_seconds=3) as rpc:
            net.chain.drop_next()
            lost = await signed(net, rpc, (CALL,))
            await rpc.send_tx(lost, WaitUntil.none)
            await rpc.send_tx(await signed(net, rpc, (CALL,), ahead=2), WaitUntil.none)
            net.chain.make_block()

            async def dead() -> bool:
                key = await rpc.view_access_key(OPERATOR, net.operator.public_key, finality="final")
                head = key.block_height
                return cannot_land(lost.transaction.nonce, height, final_nonce=key.nonce, final_height=head)

            assert not await dead(), "the block that overtakes it is not final yet"
            net.chain.make_block(2)
            assert await dead()
            assert await rpc.tx(lost.hash, OPERATOR) is None
