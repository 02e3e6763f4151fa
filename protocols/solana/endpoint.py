"""One RPC endpoint: its name without its secrets, its health, and one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import TypeAdapter
from solana.rpc.async_api import AsyncClient
from solana.rpc.jsonrpc import JsonRpcRequest
from solders.pubkey import Pubkey

from millrace.errors import MillraceError, Permanent, Transient
from millrace.redaction import register_secret
from protocols.solana.answer_cap import cap_answers, cap_for
from protocols.solana.rpc_errors import EndpointRefused, WrongChain, as_millrace_error

T = TypeVar("T")

_FIRST_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 60.0
_REFUSED_REST_SECONDS = 300.0

_SHORTEST_KEY = 16
"""A shorter part of a path or a query is a word like `mainnet`, which must stay readable."""

_logger = logging.getLogger(__name__)


def endpoint_label(url: str) -> str:
    """Scheme, host and port of `url`: all of it that may be printed, for keys travel in the rest.

    Raises Permanent if it is not an http or https URL; the message does not quote it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise Permanent(
            "one of the Solana RPC endpoints is not an http or https URL", hint="check SOLANA_RPC_URL, comma-separated"
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def _secrets_in(url: str) -> list[str]:
    """What may be a provider's key: user, password, path, query and the parts of both, if long; quoted or not."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query)]
    words = _quoted_or_not([parts.path.strip("/"), *parts.path.split("/"), parts.query, *values])
    account = _quoted_or_not([parts.username or "", parts.password or ""])
    return [*account, *(word for word in words if len(word) >= _SHORTEST_KEY)]


def _quoted_or_not(words: list[str]) -> list[str]:
    return [*words, *map(unquote, words)]


def _genesis_hash(answer: str, label: str) -> str:
    """The answer if it is a hash: it becomes part of every job's key. Raises EndpointRefused otherwise."""
    try:
        return str(Pubkey.from_string(answer))  # a hash has an address's form
    except ValueError:
        raise EndpointRefused(f"{label} gives no genesis hash", hint="is it a Solana RPC endpoint?") from None


class Endpoint:
    """An RPC endpoint that remembers how it has behaved.

    Arguments: `clock` gives seconds that never go back; after a failure the endpoint rests, longer with each one in
    a row, and is asked meanwhile only if all others rest as well.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.label = endpoint_label(url)
        self.failures = 0
        self.resting_until = 0.0
        self.serves_genesis_hash = ""
        self.wrong_chain: WrongChain | None = None
        self._clock = clock
        self._opening = asyncio.Lock()
        for secret in _secrets_in(url):
            register_secret(secret)
        # Its HTTP client would log whole URLs, and repeat a sendTransaction whose outcome is unknown.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._client = AsyncClient(url, max_transport_retries=0)
        cap_answers(self._client._provider.session)

    @property
    def resting(self) -> bool:
        """True while the endpoint should be left alone."""
        return self._clock() < self.resting_until

    async def call(self, method: str, params: list[Any], answer: TypeAdapter[T], timeout_seconds: float) -> T:
        """Call `method` once; returns the result as `answer` reads it. Raises as `ask`."""

        async def question(client: AsyncClient) -> T:
            return answer.validate_python(
                await client.send_rpc_request(JsonRpcRequest(method=method, params=params), Any)
            )

        return await self.ask(method, question, timeout_seconds)

    async def ask(self, method: str, question: Callable[[AsyncClient], Awaitable[T]], timeout_seconds: float) -> T:
        """Ask one `question`, which calls `method`, once.

        Raises the errors of `protocols.solana.rpc_errors`, and notes how it went.
        """
        try:
            with cap_for(method):
                async with asyncio.timeout(timeout_seconds):
                    value = await question(self._client)
        except BaseException as error:  # a panic in solders is no Exception
            known = as_millrace_error(error, method, self.label)
            if known is None:
                raise
            self._note(known)
            # The cause quotes the URL, and with it the key.
            raise known from None
        self.failures = 0
        self.resting_until = 0.0
        return value

    def _note(self, error: MillraceError) -> None:
        if isinstance(error, Transient):
            self.failures += 1
            rest = min(_FIRST_REST_SECONDS * 2 ** (self.failures - 1), _LONGEST_REST_SECONDS)
            self.resting_until = self._clock() + max(rest, error.retry_after_seconds or 0.0)
        elif isinstance(error, EndpointRefused):
            self.failures += 1
            self.resting_until = self._clock() + _REFUSED_REST_SECONDS

    async def ensure_serves(self, genesis_hash: str, timeout_seconds: float) -> str:
        """Make sure, once, that the endpoint serves the chain with that genesis hash; returns the hash.

        An empty `genesis_hash` accepts whatever it serves. Raises WrongChain, now and ever after, if it serves
        another; otherwise as `call`.
        """
        async with self._opening:
            if self.wrong_chain is not None:
                raise WrongChain(*self.wrong_chain.args, hint=self.wrong_chain.hint)
            if not self.serves_genesis_hash:
                answer = await self.call("getGenesisHash", [], _TEXT, timeout_seconds)
                self.serves_genesis_hash = _genesis_hash(answer, self.label)
            if genesis_hash and self.serves_genesis_hash != genesis_hash:
                self.wrong_chain = WrongChain(
                    f"{self.label} serves the chain {self.serves_genesis_hash}, we work for {genesis_hash}",
                    hint="remove it from SOLANA_RPC_URL or correct the expected genesis hash",
                )
                _logger.error("%s", self.wrong_chain)
                raise WrongChain(*self.wrong_chain.args, hint=self.wrong_chain.hint)
            return self.serves_genesis_hash

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


_TEXT: TypeAdapter[str] = TypeAdapter(str)
