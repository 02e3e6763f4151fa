"""Accounts and transactions between the RPC's JSON and ours."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from solders.hash import Hash, ParseHashError
from solders.message import Message, MessageV0, MessageV1, from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import SanitizeError, VersionedTransaction

from localnet.solana import base58
from localnet.solana.accounts import StoredAccount
from localnet.solana.rpc_error import INVALID_REQUEST, RpcError, invalid
from localnet.solana.transactions import Execution, LandedTransaction

PACKET_BYTES = 1_232
_LONGEST_BASE64, _LONGEST_BASE58 = 1_644, 1_683
_LONGEST_BASE58_ACCOUNT = 128
_EXEMPT_RENT_EPOCH = 2**64 - 1


def address_of(text: Any) -> str:
    """A well-formed account address; RpcError -32602 for anything else."""
    return _parsed(text, Pubkey.from_string)


def signature_of(text: Any) -> str:
    """A well-formed transaction signature; RpcError -32602 for anything else."""
    return _parsed(text, Signature.from_string)


def blockhash_of(text: Any) -> str:
    """A well-formed blockhash; RpcError -32602 for anything else."""
    return _parsed(text, Hash.from_string)


def _parsed(text: Any, parse: Callable[[str], object]) -> str:
    if not isinstance(text, str):
        raise invalid(f"Invalid params: invalid type: {type(text).__name__}, expected a string.")
    try:
        return str(parse(text))
    except (ValueError, ParseHashError) as error:
        raise invalid("Invalid param: WrongSize" if _is_base58(text) else "Invalid param: Invalid") from error


def _is_base58(text: str) -> bool:
    return all(character in base58.ALPHABET for character in text)


def count_of(value: Any) -> int:
    """A whole number of at least 0; RpcError -32602 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise invalid(f"Invalid params: invalid value: {value!r}, expected u64.")
    return value


def account_json(account: StoredAccount, config: dict[str, Any]) -> dict[str, Any]:
    """An account in the encoding and with the slice that the request's config asks for."""
    content = account.content
    if (part := config.get("dataSlice")) is not None:
        offset, length = count_of(part.get("offset")), count_of(part.get("length"))
        content = content[offset : offset + length]
    return {
        "data": _content_json(content, config.get("encoding")),
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": account.owner,
        "rentEpoch": _EXEMPT_RENT_EPOCH,
        "space": len(account.content),
    }


def _content_json(content: bytes, encoding: Any) -> Any:
    if encoding in ("base64", "jsonParsed"):  # no account here has a parser; a real node then sends base64 as well
        return [base64.b64encode(content).decode(), "base64"]
    if encoding not in (None, "base58", "binary"):
        raise invalid(f"Invalid params: unknown variant `{encoding}`, localnet knows `base58`, `base64`, `jsonParsed`.")
    if len(content) > _LONGEST_BASE58_ACCOUNT:
        raise RpcError(
            INVALID_REQUEST,
            "Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.",
        )
    text = base58.encode(content)
    return [text, "base58"] if encoding == "base58" else text


def bytes_of(text: Any, encoding: str) -> bytes:
    """Bytes from base58 or base64; RpcError -32602 if they are not."""
    if not isinstance(text, str):
        raise invalid(f"Invalid params: invalid type: {type(text).__name__}, expected a string.")
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        if encoding == "base58":
            return base58.decode(text)
    except (ValueError, binascii.Error) as error:
        raise invalid(f"invalid {encoding} encoding: {error}") from error
    raise invalid(f"unsupported encoding: {encoding}. Supported encodings: base58, base64")


def transaction_of(text: Any, encoding: str) -> VersionedTransaction:
    """A signed transaction that fits into a packet; RpcError -32602 if it does not, or is none."""
    name = "solana_transaction::versioned::VersionedTransaction"
    longest = _LONGEST_BASE64 if encoding == "base64" else _LONGEST_BASE58
    if isinstance(text, str) and len(text) > longest:
        raise invalid(f"{encoding} encoded {name} too large: {len(text)} bytes (max: encoded/raw {longest}/1232)")
    raw = bytes_of(text, encoding)
    if len(raw) > PACKET_BYTES:
        raise invalid(f"decoded {name} too large: {len(raw)} bytes (max: {PACKET_BYTES} bytes)")
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except (ValueError, SanitizeError) as error:
        raise invalid(f"failed to deserialize {name}: {error}") from error
    known_version(transaction.message)
    return transaction


def unsigned_transaction_of(text: Any) -> VersionedTransaction:
    """A message in base64, as a transaction without signatures; RpcError -32602 if it is none."""
    try:
        message = from_bytes_versioned(bytes_of(text, "base64"))
        signatures = [Signature.default()] * message.header.num_required_signatures
        transaction = VersionedTransaction.populate(message, signatures)
        transaction.sanitize()
    except (ValueError, SanitizeError) as error:
        raise invalid(f"failed to deserialize solana_message::VersionedMessage: {error}") from error
    known_version(message)
    return transaction


def known_version(message: Message | MessageV0 | MessageV1) -> Message | MessageV0:
    """The message, if it is of a version that the network accepts; RpcError -32602 if not."""
    if isinstance(message, MessageV1):
        raise invalid("Transaction version (1) is not supported")
    return message


def execution_json(execution: Execution) -> dict[str, Any]:
    """What a simulation, or the one before sending, reports."""
    returned = execution.return_data
    return {
        "accounts": None,
        "err": execution.error,
        "innerInstructions": None,
        "logs": execution.logs,
        "replacementBlockhash": None,
        "returnData": returned and {"programId": returned[0], "data": [_base64(returned[1]), "base64"]},
        "unitsConsumed": execution.compute_units,
    }


def landed_json(landed: LandedTransaction, encoding: str, block_time: int) -> dict[str, Any]:
    """What getTransaction answers for a transaction in a block."""
    execution = landed.execution
    versioned = isinstance(landed.transaction.message, MessageV0)
    return {
        "slot": landed.slot,
        "blockTime": block_time,
        "version": 0 if versioned else "legacy",
        "transaction": _transaction_json(landed.transaction, encoding),
        "meta": {
            "err": execution.error,
            "status": status_json(execution),
            "fee": execution.fee_lamports,
            "preBalances": list(landed.balances_before),
            "postBalances": list(landed.balances_after),
            "innerInstructions": [],
            "logMessages": execution.logs,
            "preTokenBalances": [],
            "postTokenBalances": [],
            "rewards": [],
            "loadedAddresses": {"writable": [], "readonly": []},
            "computeUnitsConsumed": execution.compute_units,
        },
    }


def status_json(execution: Execution) -> dict[str, Any]:
    """The old form of the outcome, which nodes still send beside `err`."""
    return {"Ok": None} if execution.error is None else {"Err": execution.error}


def _transaction_json(transaction: VersionedTransaction, encoding: str) -> Any:
    if encoding == "base64":
        return [_base64(bytes(transaction)), "base64"]
    if encoding == "base58":
        return [base58.encode(bytes(transaction)), "base58"]
    if encoding != "json":
        raise invalid(f"Invalid params: localnet encodes transactions as json, base58 or base64, not {encoding!r}.")
    message = transaction.message
    header = message.header
    return {
        "signatures": [str(signature) for signature in transaction.signatures],
        "message": {
            "header": {
                "numRequiredSignatures": header.num_required_signatures,
                "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
                "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
            },
            "accountKeys": [str(key) for key in message.account_keys],
            "recentBlockhash": str(message.recent_blockhash),
            "instructions": [
                {
                    "programIdIndex": instruction.program_id_index,
                    "accounts": list(instruction.accounts),
                    "data": base58.encode(bytes(instruction.data)),
                    "stackHeight": None,
                }
                for instruction in message.instructions
            ],
        },
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
