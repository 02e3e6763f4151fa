"""A local PoC validator: pushes jobs over a WebSocket, gives them out over HTTP, and checks what it gets.

with ValidatorLocalnet(token="secret") as validator:
    validator.push("job-1", {"kind": "matmul-i32-v1", "block_hash": "ab" * 32, "n": 64})
    answer = validator.answer("job-1")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from localnet.validator.desk import Desk
from localnet.validator.polling_server import PollingServer
from localnet.validator.push_server import PushServer

__all__ = ["ValidatorLocalnet"]


class ValidatorLocalnet:
    """One validator with two doors; a context manager.

    Arguments: `token` is the bearer token that both doors ask for, none if empty; `port` and `http_port` 0 take free
    ones; `knows_refusals` is whether it takes `job_refused`, which the network's documents do not name. Attributes:
    `url` (ws://…/worker), `http_url`, and `desk` with everything said so far; from another process,
    `POST <http_url>/_localnet` with `{"action": "push", …}`. Raises OSError if a port is taken.
    """

    def __init__(self, *, token: str = "", port: int = 0, http_port: int = 0, knows_refusals: bool = True) -> None:
        self.desk = Desk(token, knows_refusals=knows_refusals)
        self._push = PushServer(self.desk, port)
        self._polling = PollingServer(self.desk, http_port)
        self.http_url = self._polling.url
        self.url = ""

    def push(self, job_id: str, payload: Any, **fields: Any) -> None:
        """Offer a job, on every connection there is and to whoever comes later."""
        self.desk.push(job_id, payload, **fields)

    def say(self, message: Any) -> None:
        """Say anything at all: a JSON document, or a text or bytes as they are."""
        self.desk.offer(message)

    def answer(self, job_id: str, timeout_seconds: float = 20.0) -> dict[str, Any]:
        """The first answer to the job, waited for. Raises TimeoutError."""
        return self.desk.wait(lambda: self.desk.answers_to(job_id), timeout_seconds)[0]

    def cut(self) -> None:
        """End every WebSocket without a closing handshake, as a crashed validator does."""
        self._push.cut()

    def refuse(self, status: int | None) -> None:
        """Answer each request at either door with that status, until told None."""
        self.desk.refusing = status

    def swallow(self, times: int) -> None:
        """The next bytes over a WebSocket end the connection before they are read."""
        self.desk.swallowing = times

    def __enter__(self) -> Self:
        self.url = self._push.start()
        self._polling.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._polling.stop()
        self._push.stop()
