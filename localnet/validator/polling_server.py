"""The validator's other door, plain HTTP on 127.0.0.1: `GET /jobs?worker=…` and `POST /results`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from localnet.controls import CONTROL_PATH, control
from localnet.http_server import Connection, StandInServer
from localnet.validator.desk import Desk


class PollingServer(StandInServer):
    """Gives out every job that has no answer, again and again."""

    def __init__(self, desk: Desk, port: int) -> None:
        super().__init__(port, _Connection, "localnet-validator-http")
        self.desk = desk


class _Connection(Connection):
    server: PollingServer

    def on_get(self) -> None:
        url = urlsplit(self.path)
        worker = parse_qs(url.query).get("worker", [""])[0]
        if self._turned_away():
            return None
        if url.path != "/jobs" or not worker:
            return self.reply_json(404, {"error": "GET /jobs?worker=<address>"})
        self.server.desk.workers.add(worker)
        jobs = self.server.desk.open_jobs()
        return self.reply_json(200, jobs) if jobs else self.reply(204, b"")

    def on_post(self, body: bytes) -> None:
        if self.path == CONTROL_PATH:
            return self._control(body)
        if self._turned_away():
            return None
        if urlsplit(self.path).path != "/results":
            return self.reply_json(404, {"error": "POST /results"})
        fault = self.server.desk.heard(body)
        # In words, or not at all: only the status is agreed upon.
        return self.reply(422, fault.encode(), content_type="text/plain") if fault else self.reply(202, b"")

    def _control(self, body: bytes) -> None:
        desk = self.server.desk
        actions: dict[str, Callable[..., Any]] = {"push": desk.push, "say": desk.offer, "answers_to": desk.answers_to}
        try:
            document = json.loads(body)
        except ValueError as error:
            return self.reply_json(400, {"error": str(error)})
        return self.reply_json(*control(actions, document))

    def _turned_away(self) -> bool:
        status = self.server.desk.status_for(self.headers.get("Authorization"))
        if status is not None:
            self.reply(status, b"turned away\n", content_type="text/plain")
        return status is not None
