"""What a transaction offers for its computing."""

from __future__ import annotations

import struct

from solders.compute_budget import ID
from solders.message import Message, MessageV0, MessageV1

_SET_COMPUTE_UNIT_PRICE = 3


def unit_price(message: Message | MessageV0 | MessageV1) -> int:
    """Micro-lamports per compute unit; 0 if the transaction sets no price."""
    for instruction in message.instructions:
        content = bytes(instruction.data)
        is_budget = message.account_keys[instruction.program_id_index] == ID
        if is_budget and len(content) == 9 and content[0] == _SET_COMPUTE_UNIT_PRICE:
            (price,) = struct.unpack_from("<Q", content, 1)
            return int(price)
    return 0
