"""What NEAR writes: transactions, keys, names, credentials, job ids, and the answers that the contract is given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, presentable, well_said
from millrace import redaction
from protocols.near import contract_early, contract_head
from protocols.near.contract import RESUME_LIMIT_BYTES, ExecutionRequest, OutputTooLarge, Resolution, ResourcesUsed
from protocols.near.contract_head import OutputNotJson, charged_yocto
from protocols.near.job import handed_id, parse_handed_id, parse_job_id
from protocols.near.keys import (
    InvalidKey,
    NearKey,
    UnusableCredentials,
    hash_bytes,
    is_account_id,
    load_credentials,
    parse_public_key,
    parse_secret_key,
    public_key_text,
    to_base58,
)
from protocols.near.transactions import MOST_GAS, FunctionCall, MalformedTransaction, SignedTransaction

VECTORS = Path(__file__).parents[2] / "tests" / "vectors" / "near_transactions.json"
"""Transactions that NEAR's own library made."""

_KEY = NearKey(b"\x01" * 32)
_LONGEST_NUMBER = len("-1.7976931348623157e+308")
_U64 = 1 << 64


def vectors() -> list[dict[str, Any]]:
    """The golden transactions."""
    found: list[dict[str, Any]] = json.loads(VECTORS.read_text())["vectors"]
    return found


def check_transaction(given: bytes) -> None:
    """What is read is written to the same bytes, by us and by a second writer."""
    try:
        signed = SignedTransaction.from_bytes(given)
    except MalformedTransaction as error:
        presentable(str(error))
        return
    agree(signed.to_bytes() == given, "a transaction with two spellings")
    agree(SignedTransaction.from_base64(signed.to_base64()) == signed, "another transaction in base64")
    agree(_written(signed) == given, "a second writer disagrees")
    agree(len(hash_bytes(signed.hash)) == 32 and signed.verifies in (True, False), "a hash of another length")


def _written(signed: SignedTransaction) -> bytes:
    sent = signed.transaction
    parts = [_text(sent.signer_id), b"\0", sent.public_key, sent.nonce.to_bytes(8, "little"), _text(sent.receiver_id)]
    parts += [sent.block_hash, len(sent.calls).to_bytes(4, "little")]
    for call in sent.calls:
        amounts = (call.gas | call.deposit_yocto << 64).to_bytes(24, "little")
        parts += [b"\2", _text(call.method), len(call.args).to_bytes(4, "little"), call.args, amounts]
    return b"".join([*parts, b"\0", signed.signature])


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


def check_key(given: bytes) -> None:
    """A key, or a hash, has one spelling, and what is refused is not repeated."""
    text = given.decode("utf-8", "surrogateescape")
    try:
        public = parse_public_key(text)
    except InvalidKey as error:
        _silent(error, text)
    else:
        agree(public_key_text(public) == text.strip(), "a public key with two spellings")
    try:
        key = parse_secret_key(text)
    except InvalidKey as error:
        _silent(error, text)
    else:
        spellings = (key.secret_key, f"ed25519:{to_base58(key.seed)}")
        agree(text.strip() in spellings, "another key than was written")
        agree(text.strip() not in repr(key) and key.secret_key not in repr(key), "a key that is shown")
    finally:
        # A million of them would be looked for in every text.
        redaction._secrets.clear()
    try:
        digest = hash_bytes(text)
    except ValueError as error:
        presentable(str(error))
    else:
        agree(to_base58(digest) == text, "a hash with two spellings")


def _silent(error: InvalidKey, text: str) -> None:
    well_said(error)
    secret = text.strip().removeprefix("ed25519:")
    agree(len(secret) < 12 or secret not in f"{error.message}{error.hint}", "a key that is repeated")


def check_account(given: bytes) -> None:
    """Against the rules as the protocol's specification words them, one character after the other."""
    text = given.decode("utf-8", "surrogateescape")
    agree(is_account_id(text) == _may_be_an_account(text), f"one of two readers takes {text!r} for an account")


def _may_be_an_account(text: str) -> bool:
    separators = "-_."
    if not 2 <= len(text) <= 64 or text[0] in separators or text[-1] in separators:
        return False
    if any(not ("a" <= one <= "z" or "0" <= one <= "9" or one in separators) for one in text):
        return False
    return not any(one in separators and two in separators for one, two in pairwise(text))


def check_credentials(given: bytes) -> None:
    """What is read belongs together and is not shown; what is not is never quoted."""
    file = _file()
    os.ftruncate(file, 0)
    os.pwrite(file, given, 0)
    try:
        found = load_credentials(Path(f"/proc/self/fd/{file}"))
    except (UnusableCredentials, InvalidKey) as error:
        well_said(error)
        agree(_KEY.secret_key[8:30] not in f"{error.message}{error.hint}", "a key that is repeated")
        return
    finally:
        redaction._secrets.clear()
    agree(_may_be_an_account(found.account_id), "credentials of nobody")
    agree(found.key.secret_key not in repr(found), "a key that is shown")


@cache
def _file() -> int:
    """A file of ours alone, in memory: a disk takes ten times as long."""
    descriptor = os.memfd_create("credentials")
    os.fchmod(descriptor, 0o600)
    return descriptor


def check_job_id(given: bytes) -> None:
    """An id is one of the two kinds or none, and is written from what was read in it."""
    text = given.decode("utf-8", "surrogateescape")
    place, handed = parse_job_id(text), parse_handed_id(text)
    agree(place is None or handed is None, "an id of two kinds")
    if place is not None:
        height, request_id = place
        agree(f"{height}-{request_id}" == text and height < _U64 and request_id < _U64, "an id that no request has")
    if handed is not None:
        agree(handed_id(*handed) == text and handed[0] < _U64, "an id that no coordinator's request has")


def check_resolution(given: bytes) -> None:
    """Whatever came out, the contract can read what it is told, and be resumed with what it writes of it.

    Four bytes say what there is and how long the error is; the error, the note and the output follow.
    """
    source = Bytes(given)
    choice, wanted = source.byte(), ("Bytes", "Text", "Json")[source.byte() % 3]
    error = source.take(source.byte() * 8).decode("utf-8", "surrogateescape")
    note = source.take(source.byte()).decode("utf-8", "surrogateescape")
    resolution = Resolution(
        success=bool(choice & 1),
        resources_used=ResourcesUsed(_U64 - 1, 1 << 40, 7 if choice & 2 else None),
        output=source.rest() if choice & 4 else None,
        error=error if choice & 8 else None,
        compilation_note=note if choice & 16 else None,
        refund_usd=5 if choice & 32 else None,
    )
    request = _request(wanted)
    for dialect in (contract_early, contract_head):
        try:
            calls = dialect.resolve_calls(request, resolution)
        except (OutputTooLarge, OutputNotJson) as refused:
            well_said(refused)
            continue
        _check_calls(calls, resolution, dialect is contract_early)


def _check_calls(calls: tuple[FunctionCall, ...], resolution: Resolution, early: bool) -> None:
    agree(sum(call.gas for call in calls) <= MOST_GAS, "more gas than a transaction may have")
    resuming = json.loads(calls[-1].args)
    stored = calls[-1].method == "submit_execution_output_and_resolve"
    response = {**resuming, "output": None, "refund_usd": None} if stored else resuming["response"]
    if stored:
        del response["request_id"]
    agree(_rewritten_bytes(response) <= RESUME_LIMIT_BYTES, "more than a contract can be resumed with")
    agree(response["success"] is resolution.success, "another verdict")
    told: Any = resuming["output"] if stored else json.loads(calls[0].args).get("output") or response.get("output")
    if early:
        output = response["return_value"]
        agree((None if output is None else bytes(output)) == resolution.output, "another output")
    elif resolution.output is None:
        agree(told is None, "an output of nowhere")
    else:
        ((kind, content),) = told.items()
        agree(_readable(content), "an output that the contract's parser refuses")
        if kind != "Json":
            written = bytes(content) if kind == "Bytes" else content.encode()
            agree(written == resolution.output, "another output")


def _rewritten_bytes(value: Any) -> int:
    """The most that the contract writes for what it has read: its numbers may have other spellings than ours."""
    if isinstance(value, dict):
        return (
            1 + sum(_rewritten_bytes(name) + 2 + _rewritten_bytes(part) for name, part in value.items()) + (not value)
        )
    if isinstance(value, list):
        return 1 + sum(1 + _rewritten_bytes(part) for part in value) + (not value)
    if isinstance(value, float) or (type(value) is int and not -(1 << 63) <= value < _U64):
        return _LONGEST_NUMBER
    return len(json.dumps(value, ensure_ascii=False).encode())


def _readable(value: Any) -> bool:
    """Whether every number has a place in a double, and no text is half a character."""
    if isinstance(value, dict):
        return all(_readable(name) and _readable(part) for name, part in value.items())
    if isinstance(value, list):
        return all(map(_readable, value))
    if isinstance(value, str):
        return value == value.encode("utf-8", "replace").decode()
    return not isinstance(value, int | float) or abs(value) < 1 << 1023


@cache
def _request(response_format: str) -> ExecutionRequest:
    return ExecutionRequest.model_validate(
        {
            "request_id": 7,
            "data_id": "ff" * 32,
            "sender_id": "alice.near",
            "code_source": {"repo": "r", "commit": "c"},
            "payment": "1",
            "timestamp": 1,
            "response_format": response_format,
        }
    )


def check_charge(given: bytes) -> None:
    charged = charged_yocto(given.decode("utf-8", "surrogateescape").split("\n"))
    agree(charged is None or 0 <= charged < 10**39, "an amount that nobody has")


def _keys() -> Iterator[bytes]:
    for vector in vectors():
        yield from (vector[name].encode() for name in ("secret_key", "public_key", "block_hash", "hash"))
    yield b" ed25519:" + to_base58(_KEY.seed).encode() + b"\n"
    yield b"ed25519:" + b"1" * 32
    yield b"ed25519:" + b"1" * 64
    yield b"secp256k1:" + b"1" * 64


def _credentials() -> Iterator[bytes]:
    whole = {"account_id": "worker.testnet", "public_key": _KEY.public_key, "private_key": _KEY.secret_key}
    yield json.dumps(whole).encode()
    yield json.dumps({"account_id": "a.near", "secret_key": _KEY.secret_key}).encode()
    yield json.dumps({**whole, "public_key": NearKey(bytes(32)).public_key}).encode()
    yield json.dumps({**whole, "account_id": "Worker"}).encode()
    yield DEEP_JSON


def _resolutions() -> Iterator[bytes]:
    yield bytes([0b101, 0, 0, 0]) + b"42"
    yield bytes([0b111101, 0, 0, 0]) + bytes(range(240))
    yield bytes([0b101, 1, 0, 0]) + 'ö"\n\x01'.encode() * 200
    for document in (b'{"a":[1,2.5,null,true],"b":"x"}', b"1e400", b'"\\ud800"', b"[1e-5,1e16,18446744073709551616]"):
        yield bytes([0b101, 2, 0, 0]) + document
        yield bytes([0b100101, 2, 0, 0]) + document
    yield bytes([0b101, 2, 0, 0]) + b"[" + b"1e-5," * 120 + b"0]"
    yield bytes([0b101, 2, 0, 0]) + b"1" * 400
    yield bytes([0b11010, 1, 200, 40]) + b"trap: \x1b[1m\xff\xc3\xa4" * 200
    yield bytes([0b11011, 0, 200, 255]) + b"\x01" * 2_000
    yield bytes([0b11101, 2, 1, 1]) + b"\xff" * 9 + b"7"
    yield bytes([0b101, 2, 0, 0]) + b"[" * 130 + b"]" * 130


DECODERS = (
    Decoder("near transaction", check_transaction, lambda: (bytes.fromhex(one["signed"]) for one in vectors()), 2_048),
    Decoder("near key", check_key, _keys, 256),
    Decoder(
        "near account",
        check_account,
        lambda: (b"worker.testnet", b"a-b_c.d1.near", b"a" * 64, b"0x" + b"ab" * 20, b"a..b", b"-a", b"A.near", b"a\n"),
        80,
    ),
    Decoder("near credentials", check_credentials, _credentials, 2_048),
    Decoder(
        "near job id",
        check_job_id,
        lambda: (b"1234-5", b"0-0", b"7-" + b"ab" * 32, b"999999999999999999-18446744073709551615", b"01-2"),
        96,
    ),
    Decoder("near resolution", check_resolution, _resolutions, 4_096),
    Decoder("near charge", check_charge, lambda: (b'[[yNEAR charged: "100"]]', b'x\n[[yNEAR charged: "1"]]')),
)
