"""A service that speaks the Pinning Service API: it pins what it finds in the stand-in for the network.

Source: https://ipfs.github.io/pinning-services-api-spec/
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localnet.ipfs.blockstore import LIMITS, BlockStore
from localnet.ipfs.faults import Faults
from localnet.ipfs.rpc import named
from millrace.errors import MillraceError
from protocols.ipfs.cid import CID
from protocols.ipfs.reader import walk_dag

_DELEGATE = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWLocalnet1111111111111111111111111111111111111"
_MOST_LISTED = 1000


def pinning_service_app(store: BlockStore, token: str) -> Starlette:
    """The API over `store`, for the one account whose access token is `token`."""
    service = _PinningService(store, token)
    return Starlette(
        routes=[
            Route("/pins", service.listed, methods=["GET"]),
            Route("/pins", service.add, methods=["POST"]),
            Route("/pins/{requestid}", service.one, methods=["GET"]),
            Route("/pins/{requestid}", service.replace, methods=["POST"]),
            Route("/pins/{requestid}", service.remove, methods=["DELETE"]),
        ]
    )


class _PinningService:
    """A request is `queued` when it comes, `pinning` when asked about once, and settled when asked again."""

    def __init__(self, store: BlockStore, token: str) -> None:
        self._store = store
        self._token = token
        self._numbers = count(1)
        self._requests: dict[str, dict[str, Any]] = {}

    async def listed(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        asked = request.query_params
        statuses = asked.get("status", "pinned").split(",")
        cids = [CID.parse(cid) for cid in asked["cid"].split(",")] if "cid" in asked else None
        found = [
            one
            for one in self._requests.values()
            if one["status"] in statuses
            and (cids is None or any(CID.parse(one["pin"]["cid"]).names_same_as(cid) for cid in cids))
        ]
        limit = min(int(asked.get("limit", "10")), _MOST_LISTED)
        return JSONResponse({"count": len(found), "results": [self._shown(request, one) for one in found[:limit]]})

    async def add(self, request: Request) -> Response:
        return await self._accept(request, replacing="")

    async def replace(self, request: Request) -> Response:
        if request.path_params["requestid"] not in self._requests:
            return self._refused(request) or _error(404, "NOT_FOUND", "The specified resource was not found")
        return await self._accept(request, replacing=request.path_params["requestid"])

    async def one(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        found = self._requests.get(request.path_params["requestid"])
        if found is None:
            return _error(404, "NOT_FOUND", "The specified resource was not found")
        self._work_on(request, found)
        return JSONResponse(self._shown(request, found))

    async def remove(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        if self._requests.pop(request.path_params["requestid"], None) is None:
            return _error(404, "NOT_FOUND", "The specified resource was not found")
        return Response(status_code=202)

    async def _accept(self, request: Request, replacing: str) -> Response:
        if refused := self._refused(request):
            return refused
        try:
            pin = await request.json()
            CID.parse(pin["cid"])
        except (ValueError, KeyError, TypeError, MillraceError) as error:
            return _error(400, "BAD_REQUEST", str(error))
        if len(pin.get("name", "")) > 255 or len(pin.get("origins", [])) > 20:
            return _error(400, "BAD_REQUEST", "name or origins too long")
        self._requests.pop(replacing, None)
        accepted = {
            "requestid": f"pin-{next(self._numbers)}",
            "status": "queued",
            "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "pin": pin,
            "delegates": [_DELEGATE],
            "info": {},
        }
        self._requests[accepted["requestid"]] = accepted
        return JSONResponse(self._shown(request, accepted), 202)

    def _work_on(self, request: Request, pin_request: dict[str, Any]) -> None:
        faults: Faults = request.scope["faults"]
        if pin_request["status"] == "queued":
            pin_request["status"] = "pinning"
        elif pin_request["status"] == "pinning" and faults.pin_error:
            pin_request |= {"status": "failed", "info": {"status_details": faults.pin_error}}
        elif pin_request["status"] == "pinning" and not faults.never_pinned:
            self._settle(pin_request)

    def _settle(self, pin_request: dict[str, Any]) -> None:
        cid = CID.parse(pin_request["pin"]["cid"])
        try:
            for _ in walk_dag(cid, self._store.block_of, LIMITS):
                pass
        except MillraceError as error:
            pin_request |= {"status": "failed", "info": {"status_details": error.message}}
            return
        self._store.pin(cid)
        pin_request["status"] = "pinned"

    def _shown(self, request: Request, pin_request: dict[str, Any]) -> dict[str, Any]:
        cid = CID.parse(pin_request["pin"]["cid"])
        return {**pin_request, "pin": {**pin_request["pin"], "cid": str(named(request, cid))}}

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("Authorization") == f"Bearer {self._token}":
            return None
        return _error(401, "UNAUTHORIZED", "Access token is missing or invalid")


def _error(status: int, reason: str, details: str) -> Response:
    return JSONResponse({"error": {"reason": reason, "details": details}}, status)
