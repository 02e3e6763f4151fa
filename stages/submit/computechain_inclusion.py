"""The proof that a block of ComputeChain holds our result: made when a job is settled, checked by anybody later."""

from __future__ import annotations

import json

from pydantic import ValidationError

from millrace.errors import Permanent
from millrace.receipt import Inclusion
from protocols.computechain.block import Block, Header, check_block
from protocols.computechain.merkle import merkle_path, root_from_path
from protocols.computechain.transaction import SUBMIT_RESULT, ComputeResult


def prove_inclusion(block: Block, transaction_id: str) -> Inclusion:
    """The proof for the result that this transaction brought into `block`.

    Raises Permanent if the block's hash and roots do not fit its transactions, or if that one is not among them.
    """
    check_block(block)
    results = block.compute_results()
    submitted = [sent.hash for sent in block.transactions if sent.tx_type == SUBMIT_RESULT]
    if transaction_id not in submitted or len(submitted) != len(results):
        raise Permanent(f"block {block.header.height} has no result of the transaction {transaction_id}")
    index = submitted.index(transaction_id)
    return Inclusion(
        block_hash=block.hash,
        block_height=block.header.height,
        header=block.header.model_dump(mode="json"),
        root=block.header.compute_root,
        leaf=json.dumps(results[index].payload(), separators=(",", ":"), ensure_ascii=False),
        index=index,
        count=len(results),
        path=merkle_path([result.leaf() for result in results], index),
    )


def included_result(inclusion: Inclusion) -> ComputeResult:
    """The result that `inclusion` proves to be in the block with that hash; that the chain has the block, it cannot.

    Raises Permanent saying what does not fit.
    """
    try:
        header = Header.model_validate(inclusion.header)
        result = ComputeResult.model_validate_json(inclusion.leaf)
    except ValidationError as error:
        raise Permanent(f"the proof cannot be read: {error.error_count()} of its fields are wrong") from None
    if header.hash != inclusion.block_hash or header.height != inclusion.block_height:
        raise Permanent("the block's hash is not that of its header")
    if header.compute_root != inclusion.root:
        raise Permanent("the block's header names another compute_root")
    if not 0 <= inclusion.index < inclusion.count:
        raise Permanent(f"the block cannot have a result {inclusion.index + 1} of {inclusion.count}")
    if root_from_path(result.leaf(), inclusion.index, inclusion.count, inclusion.path) != inclusion.root:
        raise Permanent("the result's way up the tree does not lead to the compute_root")
    return result
