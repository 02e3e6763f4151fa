"""The contract in today's dialect."""

from __future__ import annotations

import base64
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

PRICES = (10**21, 10**14, 10**17, 10**17)
MOST_INSTRUCTIONS = 500_000_000_000
MOST_SECONDS = 180
MOST_COMPILE_SECONDS = 300
INPUT_IN_STATE_BYTES = 10_000
_FORMATS = ("Bytes", "Text", "Json")
_FLAGS = ("force_rebuild", "store_on_fastfs", "use_bound_identity")


class HeadContract:
    """Requests are resolved by their id; a failed one is refunded and removed."""

    standard = "near-outlayer"

    def __init__(self, owner_id: str, operator_id: str) -> None:
        self.state = State(owner_id, operator_id)

    def call(self, method: str, args: bytes, env: Environment) -> bytes | Promise:
        """Run a method. Raises ContractError."""
        document = parsed(args)
        if method == "request_execution":
            return self._request(document, env)
        if method == "resolve_execution":
            return self._resolve(document, document.get("response"), env)
        if method == "submit_execution_output":
            return self._store(document, env)
        if method == "submit_execution_output_and_resolve":
            self._store(document, env)
            # What this call has no parameter for is dropped, refund_usd as well.
            kept = ("success", "error", "resources_used", "compilation_note")
            return self._resolve(document, {name: document.get(name) for name in kept}, env)
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
            "get_max_limits": [MOST_INSTRUCTIONS, MOST_SECONDS, MOST_COMPILE_SECONDS],
            "is_paused": self.state.paused,
            "get_config": [self.state.owner_id, self.state.operator_id],
            "get_event_metadata": [self.standard, "1.0.0"],
            "get_pending_request_ids": sorted(self.state.pending),
        }
        if method not in answers:
            raise panic(f"no method {method}")
        return to_json(answers[method])

    def _request(self, args: dict[str, Any], env: Environment) -> Promise:
        if self.state.paused:
            raise panic("Contract is paused")
        original, source = self._sources(args.get("source"))
        asked = limits_of(args)
        limits = asked or DEFAULT_LIMITS
        input_data = text(args, "input_data", optional=True)
        response_format = args.get("response_format") or "Text"
        if response_format not in _FORMATS:
            raise bad_input("unknown variant, expected one of `Bytes`, `Text`, `Json`")
        params = args.get("params") or {}
        compile_only = bool(params.get("compile_only")) or asked is None
        if compile_only and input_data:
            raise panic("input_data must be empty for compile_only mode")
        if not compile_only:
            check_caps(limits, MOST_INSTRUCTIONS, MOST_SECONDS)
        check_payment(env, PRICES[0] if compile_only else estimate(PRICES, limits))
        request_id = self.state.next_request_id
        self.state.next_request_id += 1
        in_state = input_data is not None and len(input_data.encode()) >= INPUT_IN_STATE_BYTES
        request_data = to_json(
            {
                "request_id": request_id,
                "sender_id": env.signer_id,
                "predecessor_id": env.predecessor_id,
                "code_source": source,
                "resource_limits": limits,
                "input_data": "" if in_state else input_data or "",
                "input_data_in_state": in_state,
                "secrets_ref": args.get("secrets_ref"),
                "response_format": response_format,
                "payment": str(env.deposit_yocto),
                "timestamp": env.timestamp_ns,
                "attached_usd": params.get("attached_usd") or "0",
                "compile_only": compile_only,
                **{name: bool(params.get(name)) for name in _FLAGS},
                "project_uuid": params.get("project_uuid"),
                "project_id": (original.get("Project") or {}).get("project_id"),
            }
        )
        data_id, promise = env.yield_create("on_execution_response", request_data)
        self.state.pending[request_id] = Pending(
            request_id,
            data_id,
            env.predecessor_id,
            source,
            limits,
            env.deposit_yocto,
            env.timestamp_ns,
            input_data,
            response_format,
            text(args, "payer_account_id", optional=True) or env.predecessor_id,
            args.get("secrets_ref"),
            original_source=original,
        )
        entry = {
            "request_data": request_data.decode(),
            "data_id": data_id_numbers(data_id),
            "timestamp": env.timestamp_ns,
        }
        self._emit(env, "execution_requested", entry)
        return promise

    def _sources(self, source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The source as it was given, and what it resolves to. Raises ContractError."""
        if not isinstance(source, dict) or len(source) != 1:
            raise bad_input("expected value for `source`")
        ((kind, content),) = source.items()
        target = text(content, "build_target", optional=True) if kind != "Project" else None
        if kind == "GitHub":
            parts = {"repo": text(content, "repo"), "commit": text(content, "commit"), "build_target": target}
            return {kind: parts}, {kind: parts}
        if kind == "WasmUrl":
            parts = {"url": text(content, "url"), "hash": text(content, "hash"), "build_target": target}
            return {kind: parts}, {kind: parts}
        if kind != "Project":
            raise bad_input("unknown variant, expected one of `GitHub`, `WasmUrl`, `Project`")
        project_id = text(content, "project_id")
        if project_id not in self.state.projects:
            raise panic("Project not found")
        original = {"project_id": project_id, "version_key": text(content, "version_key", optional=True)}
        return {kind: original}, self.state.projects[project_id]

    def _store(self, args: dict[str, Any], env: Environment) -> bytes:
        check_operator(self.state, env)
        self._pending(args).stored_output = _output(args.get("output"), optional=False)
        return b""

    def _resolve(self, args: dict[str, Any], response: Any, env: Environment) -> bytes:
        check_operator(self.state, env)
        request = self._pending(args)
        if not env.yield_resume(request.data_id, to_json(_response(response))):
            raise panic("Unable to resume execution promise")
        env.log(f"Resolving execution for request_id: {request.request_id}")
        return b""

    def _pending(self, args: dict[str, Any]) -> Pending:
        request = self.state.pending.get(number(args, "request_id"))
        if request is None:
            raise panic("Execution request not found")
        return request

    def _respond(self, args: dict[str, Any], env: Environment) -> bytes:
        request = self.state.pending.pop(args["request_id"], None)
        if request is None:
            return to_json(None)
        self.state.executions += 1
        response = None if env.receipt.result is None else parsed(env.receipt.result)
        succeeded = response is not None and response["success"]
        charged = self._cost(response["resources_used"]) if response is not None and succeeded else PRICES[0]
        refund = max(request.payment_yocto - charged, 0)
        if refund:
            env.transfer(request.payer_id, refund)
        self.state.fees_yocto += charged
        if response is None:
            env.log(f"Execution promise failed. Refunded {refund} yoctoNEAR")
            return to_json(None)
        env.log(f'[[yNEAR charged: "{charged}"]]')
        done = {
            "sender_id": args["sender_id"],
            "code_source": request.source,
            "resources_used": response["resources_used"],
            "success": response["success"],
            "error_message": None if succeeded else response["error"] or "Unknown error",
            "payment_charged": str(charged),
            "payment_refunded": str(refund),
            "compilation_note": response["compilation_note"],
            "timestamp": env.timestamp_ns,
        }
        self._emit(env, "execution_completed", done)
        if not succeeded:
            return to_json(None)
        return to_json(_value(request.stored_output or response["output"]))

    @staticmethod
    def _cost(used: dict[str, Any]) -> int:
        cost = PRICES[0] + used["instructions"] // 1_000_000 * PRICES[1] + used["time_ms"] * PRICES[2]
        return int(cost + (used["compile_time_ms"] or 0) * PRICES[3])

    def _emit(self, env: Environment, event: str, entry: dict[str, Any]) -> None:
        document = {"standard": self.standard, "version": "1.0.0", "event": event, "data": [entry]}
        env.log(f"EVENT_JSON:{to_json(document).decode()}")


def _output(output: Any, *, optional: bool = True) -> Any:
    if output is None and optional:
        return None
    if not isinstance(output, dict) or len(output) != 1:
        raise bad_input("expected value for `output`")
    ((kind, content),) = output.items()
    if kind == "Bytes" and isinstance(content, list):
        if any(type(each) is not int or not 0 <= each < 256 for each in content):
            raise bad_input("invalid value, expected u8")
    elif kind not in ("Text", "Json") or (kind == "Text" and not isinstance(content, str)):
        raise bad_input("unknown variant, expected one of `Bytes`, `Text`, `Json`")
    return output


def _value(output: Any) -> Any:
    """What the requester gets."""
    if output is None:
        return None
    ((kind, content),) = output.items()
    return base64.b64encode(bytes(content)).decode() if kind == "Bytes" else content


def _response(response: Any) -> dict[str, Any]:
    """The response as the contract reads it and writes it again. Raises ContractError."""
    if not isinstance(response, dict) or type(response.get("success")) is not bool:
        raise bad_input("missing field `success`")
    used = response.get("resources_used")
    return {
        "success": response["success"],
        "output": _output(response.get("output")),
        "error": text(response, "error", optional=True),
        "resources_used": {
            "instructions": number(used, "instructions"),
            "time_ms": number(used, "time_ms"),
            "compile_time_ms": number(used, "compile_time_ms", optional=True),
        },
        "compilation_note": text(response, "compilation_note", optional=True),
        "refund_usd": number(response, "refund_usd", optional=True),
    }


def _stored(request: Pending) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "data_id": data_id_numbers(request.data_id),
        "sender_id": request.sender_id,
        "execution_source": request.original_source,
        "resolved_source": request.source,
        "resource_limits": request.limits,
        "payment": request.payment_yocto,
        "timestamp": request.timestamp_ns,
        "secrets_ref": request.secrets_ref,
        "response_format": request.response_format,
        "input_data": request.input_data,
        "payer_account_id": request.payer_id,
        "attached_usd": 0,
        "pending_output": None,
        "output_submitted": request.stored_output is not None,
    }
