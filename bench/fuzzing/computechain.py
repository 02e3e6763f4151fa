"""What ComputeChain's nodes answer, and the files and texts that its keys and results come in."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, presentable, well_said
from millrace.errors import MillraceError
from protocols.computechain import bech32
from protocols.computechain.bech32 import InvalidAddress
from protocols.computechain.block import NO_HASH, Block, WrongBlock, check_block
from protocols.computechain.events import Event
from protocols.computechain.keys import ComputeKey
from protocols.computechain.keystore import UnusableKey, read_key_file
from protocols.computechain.merkle import merkle_path, merkle_root, root_from_path
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import ComputeResult, Transaction, is_signed, submit_result

_KEY = ComputeKey(b"\x01" * 32)
_RESULT = ComputeResult(
    task_id="550e8400-e29b-41d4-a716-446655440000",
    worker_address=_KEY.address,
    result_hash="ab" * 32,
    proof='{"v":1}',
    nonce=7,
    signature="",
)
_STATUSES = (200, 200, 200, 200, 200, 200, 301, 400, 404, 422, 429, 500, 503)
_HEIGHT = 5
_RESULT_FIELDS = ("task_id", "result_hash", "proof", "signature", "nonce")

Question = Callable[[ComputeChainRpc], Coroutine[Any, Any, object]]


async def _events(rpc: ComputeChainRpc) -> list[Event]:
    async with aclosing(rpc.events()) as events:
        return [event async for event in events]


_QUESTIONS: tuple[Question, ...] = (
    lambda rpc: rpc.status(),
    lambda rpc: rpc.block(_HEIGHT),
    lambda rpc: rpc.balance(_KEY.address),
    lambda rpc: rpc.nonce(_KEY.address, pending=True),
    lambda rpc: rpc.receipt("ab" * 32),
    lambda rpc: rpc.send(submit_result(_KEY, _RESULT, nonce=3, gas_price=1_000)),
    _events,
)


class _Node:
    """Answers every request with `status`, one header and `body`."""

    def __init__(self) -> None:
        self.status, self.header, self.body = 200, b"", b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = [(b"Retry-After", self.header)]
        return httpx.Response(self.status, headers=headers, stream=httpx.ByteStream(self.body))


_node = _Node()
_rpc = ComputeChainRpc(["http://node.invalid"])
_rpc._endpoints[0]._http = httpx.AsyncClient(
    transport=httpx.MockTransport(_node), base_url="http://node.invalid", follow_redirects=False
)


def check_node(given: bytes) -> None:
    """Three bytes say what is asked, the status and how long a header is; the header and the body follow."""
    source = Bytes(given)
    question = _QUESTIONS[source.byte() % len(_QUESTIONS)]
    _node.status = _STATUSES[source.byte() % len(_STATUSES)]
    _node.header = source.take(source.byte() % 32).replace(b"\r", b"").replace(b"\n", b"")
    _node.body = source.rest()
    try:
        answer = event_loop().run_until_complete(question(_rpc))
    except MillraceError as error:
        well_said(error)
        return
    _check_numbers(answer)
    if isinstance(answer, Block):
        _check_block(answer)


def _check_numbers(answer: object) -> None:
    """Heights and nonces are what loops count to, and amounts what is paid with."""
    if isinstance(answer, int):
        agree(0 <= answer < 1 << 256, f"a number with {answer.bit_length()} bits")
    elif isinstance(answer, BaseModel) and not isinstance(answer, Block):
        height = getattr(answer, "height", getattr(answer, "block_height", None))
        agree(height is None or -1 <= height < 1 << 63, f"a height of {height}")


def check_whole_block(given: bytes) -> None:
    """A block's JSON; then the same with its roots corrected, as an attacker would."""
    try:
        block = Block.model_validate(json.loads(given))
    except (ValidationError, ValueError, RecursionError):
        return
    _check_block(block)
    try:
        tx_root = merkle_root([sent.digest for sent in block.transactions]) or NO_HASH
        compute_root = merkle_root([result.leaf() for result in block.compute_results()])
    except (WrongBlock, ValueError, RecursionError):
        return
    roots = {"tx_root": tx_root, "compute_root": compute_root}
    _check_block(block.model_copy(update={"header": block.header.model_copy(update=roots)}))


def _check_block(block: Block) -> None:
    try:
        check_block(block)
    except WrongBlock as error:
        well_said(error)
        return
    leaves = [result.leaf() for result in block.compute_results()]
    for index, leaf in enumerate(leaves):
        path = merkle_path(leaves, index)
        agree(root_from_path(leaf, index, len(leaves), path) == block.header.compute_root, "a leaf without its path")
    for sent in block.transactions:
        again = Transaction.model_validate(json.loads(json.dumps(sent.model_dump(mode="json"))))
        agree(again.hash == sent.hash, "another hash after the way to a node and back")
        is_signed(sent)


def check_result(given: bytes) -> None:
    """A result that can be made can be signed, and is the same one when a node has parsed it.

    Its fields are what is between zeros: bytes that are no UTF-8 become surrogates, a field that is missing is null.
    """
    texts = [field.decode("utf-8", "surrogateescape") for field in given.split(b"\0")]
    fields = dict(zip_longest(_RESULT_FIELDS, texts[: len(_RESULT_FIELDS)]))
    try:
        ours = ComputeResult.model_validate({**fields, "worker_address": _KEY.address})
    except ValidationError:
        return
    sent = submit_result(_KEY, ours, nonce=3, gas_price=1_000)
    received = Transaction.model_validate(json.loads(sent.model_dump_json()))
    agree(received.hash == sent.hash, "another hash after the way to a node and back")
    agree(ComputeResult.model_validate(received.payload).leaf() == ours.leaf(), "another leaf at the node")


def check_address(given: bytes) -> None:
    text = given.decode("utf-8", "surrogateescape")
    try:
        prefix, payload = bech32.decode(text)
    except InvalidAddress as error:
        well_said(error)
        return
    agree(bech32.encode(prefix, payload) in (text, text.lower()), "an address with two spellings")


def check_key_file(given: bytes) -> None:
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


def _block(count: int) -> dict[str, Any]:
    """A block with so many results, as a node sends it."""
    sent = [submit_result(_KEY, _RESULT, nonce=nonce, gas_price=1_000) for nonce in range(count)]
    header = {
        "height": _HEIGHT,
        "prev_hash": NO_HASH,
        "timestamp": 1_700_000_025,
        "chain_id": "cpc-devnet-1",
        "proposer_address": "cpcvalcons1x",
        "round": 0,
        "tx_root": merkle_root([one.digest for one in sent]) or NO_HASH,
        "state_root": "11" * 32,
        "compute_root": merkle_root([_RESULT.leaf() for _ in sent]),
        "gas_used": 80_000 * count,
        "gas_limit": 50_000_000,
        "zk_state_proof_hash": None,
        "zk_compute_proof_hash": None,
    }
    return {"header": header, "txs": [one.model_dump() for one in sent], "pq_signature": "", "pq_sig_scheme_id": 1}


def _node_seeds() -> Iterator[bytes]:
    tx_hash = "ab" * 32
    answers: tuple[list[object], ...] = (
        [{"height": 7, "last_hash": tx_hash, "network": "devnet", "mempool_size": 0, "epoch": 0}],
        [_block(0), _block(1), {"detail": "Block not found"}],
        [{"address": _KEY.address, "balance": "1" + "0" * 27, "nonce": 4}],
        [{"address": _KEY.address, "nonce": 4, "pending": True}],
        [{"tx_hash": tx_hash, "status": "confirmed", "block_height": 7, "timestamp": 1, "error": None}],
        [{"status": "received"}, *({"status": "rejected", "error": words} for words in _WORDS)],
        [],
    )
    for number, bodies in enumerate(answers):
        for body in bodies:
            yield bytes([number, 0, 0]) + json.dumps(body).encode()
        yield bytes([number, 0, 0]) + DEEP_JSON
        yield bytes([number, 8, 0]) + b'{"detail": "not there"}'
        yield bytes([number, 10, 3]) + b"120"
    event = json.dumps({"type": "tx_confirmed", "tx_hash": tx_hash, "block_height": 7})
    yield bytes([len(_QUESTIONS) - 1, 0, 0]) + f": ping\n\ndata: {event}\n\ndata: {{\n".encode()


_WORDS = ("already_in_pool", "gas_price 1 < min 1000", "mempool_full", "nonce_too_low", "insufficient_balance")


def _blocks() -> Iterator[bytes]:
    yield from (json.dumps(_block(count)).encode() for count in (0, 1, 3))
    yield DEEP_JSON


def _results() -> Iterator[bytes]:
    for texts in (("t", "ab" * 32, "", "", "7"), ("ö", "", '{"v":1}', "\\", "-1"), ("t", "", "", "", "1.5"), ("t",)):
        yield "\0".join(texts).encode()
    yield b"\xed\xa0\x80\0\0\0\0000"


def _addresses() -> Iterator[bytes]:
    for address in (_KEY.address, _KEY.address.upper(), "a12uel5l", "a1lqfn3a", "cpc1a2b3c4d5e6f7g8h9i0j"):
        yield address.encode()
    yield _KEY.address.upper().replace("K", "\N{KELVIN SIGN}").encode()


def _key_files() -> Iterator[bytes]:
    content = {
        "name": "worker",
        "address": _KEY.address,
        "public_key": _KEY.public_key,
        "private_key": _KEY.private_bytes.hex(),
        "created_at": "2026-03-04T05:06:07Z",
    }
    yield json.dumps(content, indent=2).encode()
    yield json.dumps({**content, "address": "cpc1x"}).encode()
    yield json.dumps(content).encode("utf-16")
    yield DEEP_JSON


DECODERS = (
    Decoder("computechain rpc", check_node, _node_seeds, 2048),
    Decoder("computechain block", check_whole_block, _blocks, 4096),
    Decoder("computechain result", check_result, _results),
    Decoder("computechain address", check_address, _addresses, 128),
    Decoder("computechain key file", check_key_file, _key_files, 2048),
)
