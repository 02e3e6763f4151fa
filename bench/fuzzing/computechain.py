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
from protocols.computechain.keystore import UnusableKey, read_key_file
from protocols.computechain.merkle import merkle_path, merkle_root, root_from_path
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
    """The block as it is; then with its roots corrected: an attacker would."""
    block = _read(given, Block)
    if block is None:
        return
    check_whole_block(block)
    try:
        tx_root = merkle_root([sent.digest for sent in block.transactions]) or NO_HASH
        compute_root = merkle_root([result.leaf() for result in block.compute_results()])
    except (WrongBlock, ValueError, RecursionError):
        return
    roots = {"tx_root": tx_root, "compute_root": compute_root}
    check_whole_block(block.model_copy(update={"header": block.header.model_copy(update=roots)}))


def check_whole_block(block: Block) -> None:
    """In a block that passes, every result has its path and every transaction the hash that it has elsewhere."""
    try:
        check_block(block)
    except WrongBlock as error:
        well_said(error)
        return
    leaves = [result.leaf() for result in block.compute_results()]
    for index, leaf in enumerate(leaves):
        path = merkle_path(leaves, index)
        agree(root_from_path(leaf, index, len(leaves), path) == block.header.compute_root, "a leaf without its path")
    for transaction in block.transactions:
        again = Transaction.model_validate(json.loads(json.dumps(transaction.model_dump(mode="json"))))
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
        prefix, payload = decode(text := given.decode("utf-8", "surrogateescape"))
    except InvalidAddress as error:
        well_said(error)
        return
    same = text.isascii() and encode(prefix, payload) == text.lower()
    agree(same, "an address decodes to what encodes to another")


def check_key_file(given: bytes) -> None:
    """What is read is shown without the key; what is not is never quoted."""
    file = _key_file()
    os.ftruncate(file, 0)
    os.pwrite(file, given, 0)
    os.lseek(file, 0, os.SEEK_SET)
    try:
        shown, key = read_key_file(Path(f"/dev/fd/{file}"))
    except UnusableKey as error:
        well_said(error)
        return
    presentable(f"{shown}")
    agree(key.private_bytes.hex() not in f"{shown}{key}", "a key that is shown")


@cache
def _key_file() -> int:
    """A file of ours alone that has no name, so that it is gone with this process, however that ends."""
    descriptor, name = tempfile.mkstemp()
    Path(name).unlink()
    return descriptor


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


def _addresses() -> Iterator[bytes]:
    for address in (_KEY.address, _KEY.address.upper(), "a12uel5l", "a1lqfn3a", "cpc1a2b3c4d5e6f7g8h9i0j"):
        yield address.encode()
    yield _KEY.address.upper().replace("K", "\N{KELVIN SIGN}").encode()


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
    Decoder("computechain address", check_address, _addresses, 128),
    Decoder("computechain key file", check_key_file, _key_files, 2_048),
    Decoder("proof bundle", check_bundle, lambda: iter((_honest().bundle_json("job").encode(), DEEP_JSON)), 8_192),
)
