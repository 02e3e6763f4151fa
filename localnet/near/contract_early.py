"""The contract in the dialect of October 2025."""

from __future__ import annotations

from typing import Any

from localnet.near.contract_state import (
    DEFAULT_LIMITS,
    Pending,
    State,
    bad_input,
    cancel_stale,
    check_caps,
    check_operator,
    check_payment,
    data_id_numbers,
    estimate,
    limits_of,
    number,
    parsed,
    text,
    to_json,
)
from localnet.near.environment import Environment, Promise, panic
from protocols.near.keys import to_base58

PRICES = (10**22, 10**15, 10**18)
MOST_INSTRUCTIONS = 100_000_000_000
MOST_SECONDS = 60


class EarlyContract:
    """Requests are resolved by data id; a failed one panics in its callback and stays."""

    standard = "near-offshore"

    def __init__(self, owner_id: str, operator_id: str) -> None:
        self.state = State(owner_id, operator_id)

    def call(self, method: str, args: bytes, env: Environment) -> bytes | Promise:
        """Run a method. Raises ContractError."""
        document = parsed(args)
        if method == "request_execution":
            return self._request(document, env)
        if method == "resolve_execution":
            return self._resolve(document, env)
        if method == "on_execution_response" and env.receipt.data_id:
            return self._respond(document, env)
        if method == "cancel_stale_execution":
            return cancel_stale(self.state, document, env)
        raise panic(f"no method {method}")

    def view(self, method: str, args: bytes) -> bytes:
        """Run a view method. Raises ContractError."""
        document = parsed(args or b"{}")
        if method == "get_request":
            request = self.state.pending.get(number(document, "request_id"))
            return to_json(None if request is None else _stored(request))
        if method == "estimate_execution_cost":
            return to_json(str(estimate(PRICES, limits_of(document) or DEFAULT_LIMITS)))
        answers: dict[str, Any] = {
            "get_stats": [self.state.executions, str(self.state.fees_yocto)],
            "get_pricing": [str(price) for price in PRICES],
            "get_max_limits": [MOST_INSTRUCTIONS, MOST_SECONDS],
            "is_paused": self.state.paused,
            "get_config": [self.state.owner_id, self.state.operator_id],
        }
        if method not in answers:
            raise panic(f"no method {method}")
        return to_json(answers[method])

    def _request(self, args: dict[str, Any], env: Environment) -> Promise:
        if self.state.paused:
            raise panic("Contract is paused")
        source = {
            "repo": text(args.get("code_source"), "repo"),
            "commit": text(args.get("code_source"), "commit"),
            "build_target": text(args.get("code_source"), "build_target", optional=True),
        }
        limits = limits_of(args) or DEFAULT_LIMITS
        input_data = text(args, "input_data", optional=True)
        check_caps(limits, MOST_INSTRUCTIONS, MOST_SECONDS)
        check_payment(env, estimate(PRICES, limits))
        request_id = self.state.next_request_id
        self.state.next_request_id += 1
        request_data = to_json(
            {
                "request_id": request_id,
                "sender_id": env.predecessor_id,
                "code_source": source,
                "resource_limits": limits,
                "input_data": "{}" if input_data is None else input_data,
                "payment": str(env.deposit_yocto),
                "timestamp": env.timestamp_ns,
            }
        )
        data_id, promise = env.yield_create("on_execution_response", request_data)
        self.state.pending[request_id] = Pending(
            request_id, data_id, env.predecessor_id, source, limits, env.deposit_yocto, env.timestamp_ns, input_data
        )
        entry = {
            "request_data": request_data.decode(),
            "data_id": data_id_numbers(data_id),
            "timestamp": env.timestamp_ns,
        }
        self._emit(env, "execution_requested", entry)
        return promise

    def _resolve(self, args: dict[str, Any], env: Environment) -> bytes:
        check_operator(self.state, env)
        numbers = args.get("data_id")
        if not isinstance(numbers, list):
            raise bad_input("invalid type: string, expected an array of length 32")
        if len(numbers) != 32 or any(type(each) is not int or not 0 <= each < 256 for each in numbers):
            raise bad_input("invalid length, expected an array of length 32")
        payload = to_json(_response(args.get("response")))
        if not env.yield_resume(to_base58(bytes(numbers)), payload):
            raise panic("Unable to resume execution promise")
        return b""

    def _respond(self, args: dict[str, Any], env: Environment) -> bytes:
        request = self.state.pending.pop(args["request_id"], None)
        if request is None:
            raise panic("Execution request not found")
        self.state.executions += 1
        if env.receipt.result is None:
            env.transfer(request.sender_id, request.payment_yocto - PRICES[0])
            raise panic("Execution promise failed: Failed")
        response = parsed(env.receipt.result)
        used = response["resources_used"]
        cost = PRICES[0] + used["instructions"] // 1_000_000 * PRICES[1] + used["time_ms"] * PRICES[2]
        charged = cost if response["success"] else PRICES[0]
        refund = max(request.payment_yocto - charged, 0)
        if refund:
            env.transfer(request.sender_id, refund)
        self.state.fees_yocto += charged
        done = {
            "sender_id": request.sender_id,
            "code_source": request.source,
            "resources_used": used,
            "success": response["success"],
            "timestamp": env.timestamp_ns,
        }
        self._emit(env, "execution_completed", done)
        if not response["success"]:
            raise panic(f"Execution failed: {response['error']}. Refunded {refund} yoctoNEAR")
        value = response["return_value"]
        try:
            return to_json(None if value is None else bytes(value).decode())
        except UnicodeDecodeError:
            return to_json(None)

    def _emit(self, env: Environment, event: str, entry: dict[str, Any]) -> None:
        document = {"standard": self.standard, "version": "1.0.0", "event": event, "data": [entry]}
        env.log(f"EVENT_JSON:{to_json(document).decode()}")


def _response(response: Any) -> dict[str, Any]:
    """The response as the contract reads it and writes it again. Raises ContractError."""
    if not isinstance(response, dict) or type(response.get("success")) is not bool:
        raise bad_input("missing field `success`")
    value = response.get("return_value")
    if value is not None and (
        not isinstance(value, list) or any(type(each) is not int or not 0 <= each < 256 for each in value)
    ):
        raise bad_input("invalid type for `return_value`, expected a sequence of u8")
    used = response.get("resources_used")
    return {
        "success": response["success"],
        "return_value": value,
        "error": text(response, "error", optional=True),
        "resources_used": {"instructions": number(used, "instructions"), "time_ms": number(used, "time_ms")},
    }


def _stored(request: Pending) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "data_id": data_id_numbers(request.data_id),
        "sender_id": request.sender_id,
        "code_source": request.source,
        "resource_limits": request.limits,
        "payment": request.payment_yocto,
        "timestamp": request.timestamp_ns,
    }
