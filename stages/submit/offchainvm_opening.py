"""OffchainVM as the settings describe it, with everything compared that must fit before a request is begun."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from millrace.errors import Permanent
from millrace.settings import NearSettings, Settings
from protocols.near.contract import Dialect
from protocols.near.contract_views import Contract, dialect_of
from protocols.near.events import BlockSource, CheckedSource
from protocols.near.job import OffchainVmJob
from protocols.near.keys import Credentials, is_account_id, load_credentials, parse_secret_key
from protocols.near.neardata import NeardataSource
from protocols.near.rpc import NearRpc
from protocols.near.rpc_events import RpcSource
from stages.discover.coordinator import desks_of
from stages.discover.handed import HandedDiscovery
from stages.discover.offchainvm import OffchainVmDiscovery
from stages.submit.offchainvm import OffchainVmNetwork
from stages.submit.offchainvm_rules import Rules


@asynccontextmanager
async def open_network(settings: Settings) -> AsyncIterator[OffchainVmNetwork]:
    """The contract as the settings describe it: nodes, blocks, account, keys and what is wanted.

    Raises Permanent for a setting that is missing or wrong, or if the contract knows another operator; Transient if
    no node answers.
    """
    near = settings.near
    if not near.contract_id or not is_account_id(near.contract_id):
        raise Permanent("OFFCHAINVM_CONTRACT_ID names no account", hint="set it to the contract's, outlayer.near say")
    signers = credentials_of(near)
    async with AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(NearRpc(near.rpc_urls))
        chain = (await rpc.status()).chain_id
        dialect = Dialect(near.dialect) if near.dialect != "auto" else await dialect_of(rpc, near.contract_id)
        contract = Contract(rpc, near.contract_id, dialect)
        operator_id = (await contract.get_config()).operator_id
        if operator_id != signers[0].account_id:
            raise Permanent(
                f"{near.contract_id} takes answers from {operator_id}; the worker's account is {signers[0].account_id}",
                hint="check OPERATOR_ACCOUNT_ID and OFFCHAINVM_CONTRACT_ID, or have the contract's owner change it",
            )
        source: BlockSource = RpcSource(rpc, near.contract_id, standards=near.event_standards)
        if near.neardata_url:
            blocks = await stack.enter_async_context(
                NeardataSource(near.neardata_url, near.contract_id, standards=near.event_standards)
            )
            source = CheckedSource(blocks, source)

        async def head() -> int:
            return (await rpc.block()).header.height

        discovery = OffchainVmDiscovery(
            source,
            head,
            lambda seen: OffchainVmJob.of_request(chain, dialect, seen),
            settings.data_dir / "discover",
            name=f"{chain}/{near.contract_id}",
            start_block=near.start_block,
        )
        yield OffchainVmNetwork(
            rpc,
            contract,
            discovery,
            HandedDiscovery(desks_of(settings), contract, head, chain=chain, clock=time.time),
            chain=chain,
            account_id=signers[0].account_id,
            # Each process has a lane of its own as far as there are keys: they need not know of each other for it.
            key=secrets.choice(signers).key,
            rules=Rules.of(near),
        )


def credentials_of(near: NearSettings) -> list[Credentials]:
    """The worker's account and each of its access keys. Raises Permanent if there is none, or they do not fit."""
    if near.credentials is not None:
        if near.private_keys:
            raise Permanent(
                "both MILLRACE_NEAR__CREDENTIALS and OPERATOR_PRIVATE_KEY are set", hint="set one of the two"
            )
        path = near.credentials.expanduser()
        try:
            found = load_credentials(path)
        except FileNotFoundError:
            raise Permanent(f"there are no credentials at {path}", hint="check MILLRACE_NEAR__CREDENTIALS") from None
        if near.account_id and near.account_id != found.account_id:
            raise Permanent(
                f"OPERATOR_ACCOUNT_ID is {near.account_id}, and the credentials are of {found.account_id}",
                hint="leave OPERATOR_ACCOUNT_ID unset, or name the file of that account",
            )
        return [found]
    if not is_account_id(near.account_id):
        raise Permanent("OPERATOR_ACCOUNT_ID names no account", hint="set it to the worker's, worker.testnet say")
    if not near.private_keys:
        raise Permanent(
            "the worker has no NEAR key", hint="set OPERATOR_PRIVATE_KEY, or MILLRACE_NEAR__CREDENTIALS to a file"
        )
    return [Credentials(near.account_id, parse_secret_key(key.get_secret_value())) for key in near.private_keys]
