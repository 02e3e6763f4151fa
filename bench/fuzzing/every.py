"""Every decoder that reads strangers' bytes."""

from __future__ import annotations

from bench.fuzzing import (
    cargo,
    chain,
    codecs,
    computechain,
    computechain_node,
    content,
    coordinator,
    git,
    near,
    near_contract,
    near_node,
    node,
    services,
    wasm,
)
from bench.fuzzing.controls import CONTROLS
from bench.fuzzing.decoder import Decoder

__all__ = ["CONTROLS", "DECODERS"]

DECODERS: tuple[Decoder, ...] = (
    *codecs.DECODERS,
    *content.DECODERS,
    *services.DECODERS,
    *chain.DECODERS,
    *node.DECODERS,
    *computechain.DECODERS,
    *computechain_node.DECODERS,
    *near.DECODERS,
    *near_node.DECODERS,
    *near_contract.DECODERS,
    *coordinator.DECODERS,
    *git.DECODERS,
    *cargo.DECODERS,
    *wasm.DECODERS,
)
