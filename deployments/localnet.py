"""`millrace localnet`: the stand-ins of every outside party, for the demo and for anybody's experiments."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from localnet.computechain import ComputeChainLocalnet
from localnet.crates import SAMPLES, CratesLocalnet
from localnet.git import GitLocalnet
from localnet.git.samples import add_sample
from localnet.ipfs import IpfsLocalnet
from localnet.near import NearLocalnet
from localnet.solana import SolanaLocalnet
from localnet.validator import ValidatorLocalnet

_SETTINGS = {
    "MILLRACE_CLOUDMESH__RPC_URLS": "solana_rpc_url",
    "MILLRACE_CLOUDMESH__PROGRAM_ID": "program_id",
    "MILLRACE_COMPUTECHAIN__RPC_URLS": "computechain_rpc_url",
    "MILLRACE_COMPUTECHAIN__CHAIN_ID": "computechain_chain_id",
    "MILLRACE_VALIDATOR__URL": "validator_url",
    "MILLRACE_NEAR__RPC_URLS": "near_rpc_url",
    "MILLRACE_NEAR__NEARDATA_URL": "near_rpc_url",
    "MILLRACE_NEAR__CONTRACT_ID": "near_contract_id",
    "MILLRACE_NEAR__ACCOUNT_ID": "near_account_id",
    "MILLRACE_NEAR__PRIVATE_KEYS": "near_private_key",
    "MILLRACE_COMPILE__HOSTS": "git_host",
    "MILLRACE_COMPILE__REGISTRY_MIRROR": "crates_index",
    "MILLRACE_IPFS__GATEWAYS": "ipfs_gateway_url",
    "MILLRACE_IPFS__PINATA_API": "pinata_url",
    "MILLRACE_IPFS__PINATA_JWT": "pinata_jwt",
}
"""What of the addresses a worker has to be told, by its settings."""


_ALLOWED = (
    "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS",
    "MILLRACE_COMPILE__ALLOW_PRIVATE_HOSTS",
    "MILLRACE_COMPILE__ALLOW_PRIVATE_REGISTRY",
)
"""What a worker has to allow for it: loopback is no public address."""


def run_localnet(
    console: Console, *, info: Path | None, slot_milliseconds: int, solana_port: int, block_seconds: float
) -> None:
    """Serve until SIGINT or SIGTERM. `info` gets the addresses as JSON, complete or not at all."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with (
        tempfile.TemporaryDirectory(prefix="millrace-localnet-") as folder,
        SolanaLocalnet(slot_milliseconds=slot_milliseconds, port=solana_port) as solana,
        ComputeChainLocalnet(block_seconds=block_seconds) as compute,
        IpfsLocalnet(Path(folder)) as ipfs,
        ValidatorLocalnet() as validator,
        NearLocalnet() as near,
        CratesLocalnet() as crates,
        ExitStack() as stack,
    ):
        crates.publish(*SAMPLES)
        addresses = {
            "solana_rpc_url": solana.url,
            "program_id": solana.program_id,
            "genesis_hash": solana.genesis_hash,
            "computechain_rpc_url": compute.url,
            "computechain_chain_id": compute.chain_id,
            "validator_url": validator.url,
            "validator_http_url": validator.http_url,
            "ipfs_rpc_url": ipfs.rpc_url,
            "ipfs_gateway_url": ipfs.gateway_url,
            "ipfs_legacy_gateway_url": ipfs.legacy_gateway_url,
            "pinata_url": ipfs.pinata_url,
            "pinata_jwt": ipfs.pinata_jwt,
            "pinning_service_url": ipfs.pinning_service_url,
            "near_rpc_url": near.url,
            "near_contract_id": near.contract_id,
            "near_account_id": near.operator_id,
            "near_private_key": near.operator.secret_key,
            "crates_index": crates.index,
            **_git_host(stack, Path(folder) / "git"),
        }
        if info:
            partial = info.with_suffix(".partial")
            partial.write_text(json.dumps(addresses, indent=2))
            partial.replace(info)
        console.print("localnet is up; a worker finds it with these settings:\n", markup=False)
        for name, value in localnet_settings(addresses).items():
            console.print(f"export {name}={value}", markup=False)
        console.print(
            "\nComputeChain wants a key as well: `millrace keys computechain add <name>`, then"
            "\nexport MILLRACE_COMPUTECHAIN__KEY_NAME=<name>",
            markup=False,
        )
        console.print("\nCtrl-C ends it. How to misbehave on request: docs/localnet.md", markup=False)
        ended.wait()


def _git_host(stack: ExitStack, folder: Path) -> dict[str, str]:
    """The addresses of a Git host with a sample on it; none where Git is not installed."""
    try:
        host = stack.enter_context(GitLocalnet(folder))
    except RuntimeError:
        return {}
    url, commit = add_sample(host)
    return {"git_host": "127.0.0.1", "sample_repo": url, "sample_commit": commit}


def localnet_settings(addresses: dict[str, str]) -> dict[str, str]:
    """The environment with which a worker uses a localnet at these addresses; what is not there is not served."""
    found = {setting: addresses[name] for setting, name in _SETTINGS.items() if name in addresses}
    return {**found, **dict.fromkeys(_ALLOWED, "true")}
