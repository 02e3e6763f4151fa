"""solana-py's own client, unmodified, through a job's whole life on slots that pass by themselves."""

from __future__ import annotations

import asyncio

import pytest
from job_abi import complete, initialize, job_address, signed
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import DataSliceOpts, MemcmpOpts, TxOpts
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rpc.errors import SendTransactionPreflightFailureMessage
from solders.transaction_status import TransactionConfirmationStatus

from localnet.solana import SolanaLocalnet
from localnet.solana.program import PROGRAM_ID

SKIP = TxOpts(skip_preflight=True)
OPTS = TxOpts(preflight_commitment=Confirmed, max_retries=0)


async def test_a_jobs_life_through_solana_py() -> None:
    with SolanaLocalnet(slot_milliseconds=10) as net:
        async with AsyncClient(net.url) as client:
            owner = Keypair()
            airdrop = await client.request_airdrop(owner.pubkey(), 10**9)
            await client.confirm_transaction(airdrop.value, Finalized, sleep_seconds=0.05)
            assert (await client.get_balance(owner.pubkey())).value == 10**9
            job = job_address(owner.pubkey(), "hello")
            for instruction in (initialize(owner.pubkey(), "hello"), complete(job, owner.pubkey(), "bafy", 5)):
                latest = (await client.get_latest_blockhash(Confirmed)).value
                transaction = signed(instruction, owner, str(latest.blockhash))
                simulated = (await client.simulate_transaction(transaction, commitment=Confirmed)).value
                assert (simulated.err, simulated.units_consumed is not None) == (None, True)
                signature = (await client.send_transaction(transaction, OPTS)).value
                await client.confirm_transaction(
                    signature, Confirmed, 0.02, last_valid_block_height=latest.last_valid_block_height
                )
            (status,) = (await client.get_signature_statuses([signature], search_transaction_history=True)).value
            assert status is not None
            assert status.err is None
            assert status.confirmation_status != TransactionConfirmationStatus.Processed
            found = (await client.get_transaction(signature, commitment=Confirmed)).value
            assert found is not None
            assert found.transaction.meta is not None
            assert found.transaction.meta.fee == 5_000
            history = (await client.get_signatures_for_address(job, commitment=Confirmed)).value
            assert history[0].signature == signature
            account = (await client.get_account_info(job, Confirmed)).value
            assert account is not None
            assert b"bafy" in account.data


async def test_the_cluster_and_account_methods_through_solana_py(net: SolanaLocalnet, payer: Keypair) -> None:
    async with AsyncClient(net.url) as client:
        assert await client.is_connected()
        assert str((await client.get_genesis_hash()).value) == net.genesis_hash
        assert (await client.get_version()).value.solana_core
        assert (await client.get_slot(Processed)).value == net.chain.slot()
        assert (await client.get_block_height(Processed)).value < net.chain.slot()
        assert (await client.get_epoch_info(Processed)).value.absolute_slot == net.chain.slot()
        assert (await client.get_minimum_balance_for_rent_exemption(308)).value == 3_034_560
        latest = (await client.get_latest_blockhash()).value
        message = signed(initialize(payer.pubkey(), "hello"), payer, str(latest.blockhash)).message
        assert (await client.get_fee_for_message(message)).value == 5_000
        program = Pubkey.from_string(PROGRAM_ID)
        found = await client.get_multiple_accounts([program, payer.pubkey(), Keypair().pubkey()])
        assert [each is not None for each in found.value] == [True, True, False]
        listed = await client.get_program_accounts(
            program,
            encoding="base64",
            data_slice=DataSliceOpts(offset=0, length=0),
            filters=[308, MemcmpOpts(offset=0, bytes="5b7c5")],
        )
        assert listed.value == []


async def test_a_preflight_failure_is_the_typed_error(net: SolanaLocalnet, payer: Keypair) -> None:
    async with AsyncClient(net.url) as client:
        latest = (await client.get_latest_blockhash(Confirmed)).value
        nowhere = complete(job_address(payer.pubkey(), "never posted"), payer.pubkey())
        with pytest.raises(RPCException) as caught:
            await client.send_transaction(signed(nowhere, payer, str(latest.blockhash)), OPTS)
        (message,) = caught.value.args
        assert isinstance(message, SendTransactionPreflightFailureMessage)
        assert "custom program error: 0xbc4" in message.message
        assert message.data.logs


async def test_a_busy_node_is_an_http_error(net: SolanaLocalnet) -> None:
    net.chain.fail("getSlot", 1, status=429)
    async with AsyncClient(net.url) as client:
        with pytest.raises(SolanaRpcException):
            await client.get_slot()
        assert (await client.get_slot()).value


async def test_many_clients_at_once_each_land_exactly_once() -> None:
    with SolanaLocalnet(slot_milliseconds=50) as net:
        async with AsyncClient(net.url) as client:
            latest = (await client.get_latest_blockhash(Confirmed)).value

            async def post(number: int) -> None:
                owner = Keypair()
                net.chain.airdrop(str(owner.pubkey()), 10**9)
                transaction = signed(initialize(owner.pubkey(), f"job {number}"), owner, str(latest.blockhash))
                await asyncio.gather(*(client.send_transaction(transaction, SKIP) for _ in range(3)))
                assert len(net.chain.landed(str(job_address(owner.pubkey(), f"job {number}")))) == 1

            await asyncio.gather(*(post(number) for number in range(20)))
