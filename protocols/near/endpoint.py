"""One NEAR RPC node: a JSON-RPC call, bounded in bytes and seconds, its failures as errors of ours."""

from __future__ import annotations

from typing import Any

from millrace.errors import MillraceError, Permanent, Transient
from millrace.limits import MIB
from millrace.text import printable
from protocols.http_json import JsonServer, Unreadable, mask_keys_in, origin_of
from protocols.near.rpc_errors import (
    ContractRefused,
    EndpointRefused,
    NodeBusy,
    NodeError,
    RequestRefused,
    UnknownAccessKey,
    query_error,
    read_error,
    shown,
)

MOST_BYTES = 32 * MIB
"""Of any answer: a view call returns up to 4 MiB, written as a list of numbers."""

HINT = "is it a NEAR RPC node?"
_REFUSED = (401, 403, 404, 405)


class Endpoint:
    """A node at `url`, which may carry a provider's key anywhere; `label` is what may be printed of it.

    Raises Permanent, not quoting it, if it is no http or https URL.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        origin = origin_of(url)
        if origin is None:
            raise Permanent(
                "one of the NEAR RPC nodes is not an http or https URL", hint="check MILLRACE_NEAR__RPC_URLS"
            )
        mask_keys_in(url)
        self.label = origin
        self._url = url
        self._server = JsonServer(origin, timeout_seconds=timeout_seconds, hint=HINT, most_bytes=MOST_BYTES)

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()

    async def ask(self, method: str, params: Any, timeout_seconds: float | None = None) -> Any:
        """The result of one call. Raises the errors of `rpc_errors` as a question has them; Unreadable."""
        said = await self.say(method, params, timeout_seconds)
        if isinstance(said, NodeError):
            raise query_error(said, method, self.label)
        if isinstance(said, dict) and isinstance(said.get("error"), str) and method == "query":
            # Nodes answer some failed queries with a result that holds nothing but the error's words.
            raise _failed_query(said["error"], self.label)
        return said

    async def say(self, method: str, params: Any, timeout_seconds: float | None = None) -> Any:
        """The result of one call, or the node's NodeError. Raises NodeBusy, EndpointRefused or Unreadable."""
        body = {"jsonrpc": "2.0", "id": "millrace", "method": method, "params": params}
        try:
            answer = await self._server.ask("POST", self._url, body, timeout_seconds=timeout_seconds)
        except Unreadable:
            raise
        except Transient as error:
            raise NodeBusy(f"{method}: {error.message}", retry_after_seconds=error.retry_after_seconds) from None
        said = read_error(answer.body)
        if said is not None:
            return said
        if answer.status in _REFUSED:
            raise EndpointRefused(
                f"{self.label} answers {method} with the status {answer.status}",
                hint="check the URL and its key in MILLRACE_NEAR__RPC_URLS",
            )
        if answer.status != 200 or not isinstance(answer.body, dict) or "result" not in answer.body:
            told = f"{self.label} answers {method} with the status {answer.status}: {shown(answer.body)}"
            raise Unreadable(told, hint=HINT)
        return answer.body["result"]


def _failed_query(words: str, label: str) -> MillraceError:
    told = f"{label} answers: {printable(words, 400)}"
    if "does not exist while viewing" in words:
        if words.startswith("access key"):
            return UnknownAccessKey(told, hint="is the key an access key of this account, on this network?")
        return RequestRefused(told, hint="is the account on this network?")
    return ContractRefused(told)
