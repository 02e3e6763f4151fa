"""What a ComputeChain node answers, an address, a key file, and a proof bundle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.fuzzing.decoder import DEEP_JSON, Decoder, agree, presentable, well_said
from protocols.computechain.bech32 import InvalidAddress, decode, encode
from protocols.computechain.block import NO_HASH, Block, WrongBlock, check_block
from protocols.computechain.endpoint import Answer, Unreadable, parsed
from protocols.computechain.keys import ComputeKey
from protocols.computechain.keystore import Keystore, UnusableKey
from protocols.computechain.merkle import merkle_root
from protocols.computechain.refusals import refusal
from protocols.computechain.rpc import Receipt, Status, model_of
from protocols.computechain.transaction import ComputeResult, Transaction, is_signed, submit_result
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.numpy_device import solve_on_cpu
from stages.execute.matmul.verify import verify_bundle

_KEY = ComputeKey(b"\x01" * 32)
_CHALLENGE = Challenge(block_hash="5a" * 32, worker_address=_KEY.address, n=6)


def example_block(results: int) -> dict[str, Any]:
    """A block as a node sends it, with so many results of ours."""
    sent = [
        submit_result(
            _KEY,
            ComputeResult(
                task_id=str(nonce), worker_address=_KEY.address, result_hash="ab" * 32, proof="", signature=""
            ),
            nonce=nonce,
            gas_price=1_000,
        )
        for nonce in range(results)
    ]
    header = {
        "height": 5,
        "prev_hash": NO_HASH,
        "timestamp": 1_700_000_025,
        "chain_id": "cpc-devnet-1",
        "proposer_address": "cpcvalcons1x",
        "round": 0,
        "tx_root": merkle_root([one.digest for one in sent]) or NO_HASH,
        "state_root": "11" * 32,
        "compute_root": merkle_root([ComputeResult.model_validate(one.payload).leaf() for one in sent]),
        "gas_used": 80_000 * results,
        "gas_limit": 50_000_000,
    }
    return {"header": header, "txs": [one.model_dump() for one in sent], "pq_signature": "", "pq_sig_scheme_id": 1}


def check_block_answer(given: bytes) -> None:
    """A block that passes has the roots that its transactions have."""
    block = _read(given, Block)
    if block is None:
        return
    try:
        check_block(block)
    except WrongBlock as error:
        well_said(error)
        return
    roots = [result.leaf() for result in block.compute_results()]
    agree(block.header.compute_root == merkle_root(roots), "a block with another compute_root passed")
    for transaction in block.transactions:
        again = Transaction.model_validate(json.loads(transaction.model_dump_json()))
        agree(again.hash == transaction.hash, "a transaction has another hash after a way through JSON")
        is_signed(transaction)


def check_other_answers(given: bytes) -> None:
    """Status, receipt, and the words of a refusal."""
    _read(given, Status)
    _read(given, Receipt)
    well_said(refusal(given.decode(errors="replace")))


def _read(given: bytes, kind: type[BaseModel]) -> Any:
    try:
        return model_of(Answer(200, parsed(given, "a node")), kind)
    except Unreadable as error:
        well_said(error)
        return None


def check_address(given: bytes) -> None:
    """What decodes encodes to the same."""
    try:
        prefix, payload = decode(text := given.decode("latin-1"))
    except InvalidAddress as error:
        well_said(error)
        return
    agree(encode(prefix, payload) == text.lower(), "an address decodes to what encodes to another")


def check_key_file(given: bytes) -> None:
    """What is read has the address of its key; what is not is never quoted."""
    store = Keystore(_folder())
    path = store.folder / "key.json"
    path.write_bytes(given)
    path.chmod(0o600)
    try:
        key = store.load("key")
    except UnusableKey as error:
        presentable(str(error))
        return
    agree(store.show("key").address == key.address, "the key is shown with another address")


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix=f"millrace-fuzz-keys-{os.getpid()}-"))


def check_bundle(given: bytes) -> None:
    """Only rows of the product pass."""
    text = given.decode(errors="replace")
    verdict = verify_bundle(_CHALLENGE, _honest().root, text)
    presentable(verdict.detail)
    if verdict.valid:
        right = {row.index: row.row for row in _honest().rows}
        agree(all(right[row["index"]] == row["row"] for row in json.loads(text)["rows"]), "a wrong row passed")


@cache
def _honest() -> Any:
    return solve_on_cpu(_CHALLENGE, _CHALLENGE.n)


def _json(*documents: object) -> Callable[[], Iterator[bytes]]:
    return lambda: (json.dumps(document).encode() for document in documents)


def _blocks() -> Iterator[bytes]:
    for results in (0, 1, 3):
        yield json.dumps(example_block(results)).encode()
    yield DEEP_JSON


def _key_files() -> Iterator[bytes]:
    content = {"name": "key", "address": _KEY.address, "public_key": _KEY.public_key, "private_key": "01" * 32}
    yield json.dumps({**content, "created_at": "2026-01-01T00:00:00Z"}, indent=2).encode()
    yield DEEP_JSON


DECODERS = (
    Decoder("computechain block", check_block_answer, _blocks, 6_000),
    Decoder(
        "computechain answers",
        check_other_answers,
        _json(
            {"height": 5, "last_hash": NO_HASH, "network": "devnet", "mempool_size": 0, "epoch": 0},
            {"tx_hash": NO_HASH, "status": "confirmed", "block_height": 5, "timestamp": 1, "error": None},
            "nonce_too_low",
        ),
    ),
    Decoder("computechain address", check_address, lambda: iter((_KEY.address.encode(), b"a12uel5l")), 100),
    Decoder("computechain key file", check_key_file, _key_files, 2_048),
    Decoder("proof bundle", check_bundle, lambda: iter((_honest().bundle_json("job").encode(), DEEP_JSON)), 8_192),
)
