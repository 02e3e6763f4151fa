"""What is sent to resolve a request: within 1,024 bytes, cut between characters, in each dialect's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.near import contract_early, contract_head
from protocols.near.contract import (
    RESUME_LIMIT_BYTES,
    ExecutionRequest,
    OutputTooLarge,
    Resolution,
    ResourcesUsed,
    compact,
    cut_to_fit,
)
from protocols.near.contract_head import OutputNotJson, charged_yocto, output_of
from protocols.near.transactions import MOST_GAS, FunctionCall

USED = ResourcesUsed(1_000_000, 20)


def request(response_format: str = "Text") -> ExecutionRequest:
    return ExecutionRequest.model_validate(
        {
            "request_id": 7,
            "data_id": "ab" * 32,
            "sender_id": "alice.near",
            "code_source": {"repo": "r", "commit": "c"},
            "payment": "1",
            "timestamp": 1,
            "response_format": response_format,
        }
    )


def args_of(call: FunctionCall) -> Any:
    return json.loads(call.args)


def test_earlys_call_has_the_data_id_and_the_output_as_numbers() -> None:
    (call,) = contract_early.resolve_calls(request(), Resolution(True, USED, output=b"\x00hi\xff"))
    assert (call.method, call.gas, call.deposit_yocto) == ("resolve_execution", MOST_GAS, 0)
    assert args_of(call) == {
        "data_id": [0xAB] * 32,
        "response": {
            "success": True,
            "return_value": [0, 104, 105, 255],
            "error": None,
            "resources_used": {"instructions": 1_000_000, "time_ms": 20},
        },
    }


def test_earlys_output_has_to_fit() -> None:
    def resolution(size: int) -> Resolution:
        return Resolution(True, USED, output=b"\xff" * size)

    assert contract_early.fits(resolution(220))
    assert not contract_early.fits(resolution(240))
    contract_early.resolve_calls(request(), resolution(220))
    with pytest.raises(OutputTooLarge, match="1024"):
        contract_early.resolve_calls(request(), resolution(240))


@given(st.binary(max_size=600), st.none() | st.text())
def test_fits_says_beforehand_what_the_call_says(output: bytes, error: str | None) -> None:
    resolution = Resolution(True, USED, output=output, error=error)
    try:
        response = contract_early.response_of(resolution)
    except OutputTooLarge:
        assert not contract_early.fits(resolution) or error is not None
    else:
        assert contract_early.fits(resolution)
        assert len(compact(response)) <= RESUME_LIMIT_BYTES


@given(st.text(min_size=200, max_size=2_000, alphabet=st.sampled_from('a"\\\x00\n\x7fé€😀')))
def test_an_errors_text_is_cut_between_characters_and_as_little_as_possible(error: str) -> None:
    """The public worker cuts bytes, and panics where that is inside a character."""
    for response in (
        contract_early.response_of(Resolution(False, USED, error=error)),
        args_of(contract_head.resolve_calls(request(), Resolution(False, USED, error=error))[0])["response"],
    ):
        said, size = response["error"], len(compact(response))
        assert size <= RESUME_LIMIT_BYTES
        assert said == error or (said.endswith("…") and error.startswith(said[:-1]))
        if said != error:
            # Not one more character would have fitted: the longest takes 6 bytes, and the dots up to 3.
            assert size > RESUME_LIMIT_BYTES - 10


@given(st.text(), st.integers(0, 300))
def test_what_is_cut_fits(text: str, room: int) -> None:
    cut = cut_to_fit(text, room)
    assert len(compact(cut)) - 2 <= max(room, 0)
    cut.encode()


def test_half_a_surrogate_pair_in_an_error_is_replaced() -> None:
    (call,) = contract_head.resolve_calls(request(), Resolution(False, USED, error="a\ud800b"))
    assert args_of(call)["response"]["error"] == "a?b"


def test_heads_call_has_the_request_id_and_the_output_in_the_requests_format() -> None:
    resolution = Resolution(True, ResourcesUsed(5, 6, 7), output=b'{"a":1}', compilation_note="cached")
    (call,) = contract_head.resolve_calls(request("Json"), resolution)
    assert call.method == "resolve_execution"
    assert args_of(call) == {
        "request_id": 7,
        "response": {
            "success": True,
            "output": {"Json": {"a": 1}},
            "error": None,
            "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": 7},
            "compilation_note": "cached",
            "refund_usd": None,
        },
    }
    assert output_of(b"\x00\xff", "Bytes") == {"Bytes": [0, 255]}
    assert output_of("é".encode(), "Text") == {"Text": "é"}
    assert output_of(None, "Json") is None


@pytest.mark.parametrize(
    ("output", "response_format"),
    [
        (b"\xff", "Text"),
        (b"\xff", "Json"),
        (b"", "Json"),
        (b"{", "Json"),
        (b"NaN", "Json"),
        (b"[Infinity]", "Json"),
        (b'"\\ud800"', "Json"),
        (b"[" * 100_000, "Json"),
        (b"[" * 121 + b"]" * 121, "Json"),
        (b"1e400", "Json"),
    ],
)
def test_an_output_that_is_not_in_the_format_is_a_failure_of_the_job(output: bytes, response_format: str) -> None:
    with pytest.raises(OutputNotJson):
        contract_head.resolve_calls(request(response_format), Resolution(True, USED, output=output))


def test_an_output_may_be_nested_as_deeply_as_the_contract_reads() -> None:
    nested = b"[" * 119 + b"]" * 119
    (call,) = contract_head.resolve_calls(request("Json"), Resolution(True, USED, output=nested))
    assert nested in call.args


def response_bytes(text: str) -> int:
    (call,) = contract_head.resolve_calls(request(), Resolution(True, USED, output=text.encode()))
    return len(compact(args_of(call)["response"]))


def test_head_turns_to_storage_at_1024_bytes_of_response() -> None:
    room = 1023 - response_bytes("")
    assert response_bytes("x" * room) == 1023
    resolution = Resolution(True, USED, output=b"x" * (room + 1), compilation_note=None)
    (call,) = contract_head.resolve_calls(request(), resolution)
    assert call.method == "submit_execution_output_and_resolve"
    assert args_of(call) == {
        "request_id": 7,
        "output": {"Text": "x" * (room + 1)},
        "success": True,
        "error": None,
        "resources_used": {"instructions": 1_000_000, "time_ms": 20, "compile_time_ms": None},
        "compilation_note": None,
    }


def test_a_refund_is_not_dropped_with_a_large_output() -> None:
    """`submit_execution_output_and_resolve` has no parameter for it."""
    resolution = Resolution(True, USED, output=b"x" * 5_000, refund_usd=3)
    store, resolve = contract_head.resolve_calls(request(), resolution)
    assert (store.method, resolve.method) == ("submit_execution_output", "resolve_execution")
    assert args_of(store) == {"request_id": 7, "output": {"Text": "x" * 5_000}}
    assert args_of(resolve)["response"]["refund_usd"] == 3
    assert args_of(resolve)["response"]["output"] is None
    assert store.gas + resolve.gas == MOST_GAS


def test_a_long_error_needs_no_storage() -> None:
    (call,) = contract_head.resolve_calls(request(), Resolution(False, USED, error="e" * 5_000))
    assert call.method == "resolve_execution"
    assert len(compact(args_of(call)["response"])) == 1023


def test_what_no_transaction_holds_is_refused() -> None:
    with pytest.raises(OutputTooLarge):
        contract_head.resolve_calls(request("Bytes"), Resolution(True, USED, output=b"\xff" * 500_000))


def test_a_note_that_fills_the_response_is_refused() -> None:
    with pytest.raises(OutputTooLarge):
        contract_head.resolve_calls(request(), Resolution(True, USED, compilation_note="n" * 2_000))


def test_what_was_charged_is_in_the_callbacks_logs() -> None:
    assert charged_yocto(['[[yNEAR charged: "1001200500000000000000"]]', "other"]) == 1001200500000000000000
    assert charged_yocto(["nothing", '[[yNEAR charged: "x"]]']) is None


@pytest.mark.parametrize("number", ["1e-05", "1e15", "18446744073709551616", "-9223372036854775809", "0.1"])
def test_numbers_that_the_contract_may_write_longer_than_we_do_are_counted_in_full(number: str) -> None:
    """The contract keeps them as doubles and writes 0.00001 for 1e-05: what just fitted here was refused there."""
    output = f"[{','.join([number] * (800 // (len(number) + 1)))}]".encode()
    calls = contract_head.resolve_calls(request("Json"), Resolution(True, USED, output=output))
    assert [call.method for call in calls] == ["submit_execution_output_and_resolve"]
    few = contract_head.resolve_calls(request("Json"), Resolution(True, USED, output=f"[{number}]".encode()))
    assert [call.method for call in few] == ["resolve_execution"]


@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 310, "1e400"])
def test_a_number_that_no_double_holds_is_no_json_for_the_contract(number: str) -> None:
    """Its parser refuses the whole call, so that the request would be left unanswered."""
    with pytest.raises(OutputNotJson):
        output_of(f'{{"a":[{number}]}}'.encode(), "Json")


def test_an_error_beside_an_output_may_hold_half_a_character() -> None:
    resolution = Resolution(False, USED, output=b"7", error="\udcff")
    (call,) = contract_head.resolve_calls(request("Text"), resolution)
    assert args_of(call)["response"]["error"] == "?"
