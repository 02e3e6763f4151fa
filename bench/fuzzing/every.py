"""Every decoder that reads strangers' bytes."""

from __future__ import annotations

from bench.fuzzing import chain, codecs, computechain, computechain_node, content, node, services
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
)
