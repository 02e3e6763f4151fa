"""Pinata's API: the old one that pins files and JSON, version 3 with CARs, and the lists of both.

Source: https://docs.pinata.cloud/api-reference
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localnet.ipfs.blockstore import BlockStore
from localnet.ipfs.faults import Faults
from localnet.ipfs.multipart import Part, parse_multipart
from localnet.ipfs.rpc import named
from millrace.errors import MillraceError
from protocols.ipfs.car import CarParser
from protocols.ipfs.cid import CID
from protocols.ipfs.importer import import_file
from protocols.ipfs.profiles import V0, V1


def pinata_app(store: BlockStore, jwt: str) -> Starlette:
    """The API over `store`, for the one account whose token is `jwt`."""
    pinata = _Pinata(store, jwt)
    return Starlette(
        routes=[
            Route("/data/testAuthentication", pinata.test_authentication, methods=["GET"]),
            Route("/pinning/pinFileToIPFS", pinata.pin_file, methods=["POST"]),
            Route("/pinning/pinJSONToIPFS", pinata.pin_json, methods=["POST"]),
            Route("/data/pinList", pinata.pin_list, methods=["GET"]),
            Route("/v3/files", pinata.upload, methods=["POST"]),
            Route("/v3/files/public", pinata.files, methods=["GET"]),
            Route("/v3/files/public/{id}", pinata.file, methods=["GET"]),
        ]
    )


class _Pinata:
    def __init__(self, store: BlockStore, jwt: str) -> None:
        self._store = store
        self._jwt = jwt
        self._files: dict[str, dict[str, Any]] = {}

    async def test_authentication(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"message": "Congratulations! You are communicating with Pinata"})

    async def pin_file(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        try:
            form = _form(await request.body(), request.headers.get("Content-Type", ""))
            options = json.loads(form["pinataOptions"].content) if "pinataOptions" in form else {}
            return self._pinned(request, form["file"].content, options)
        except (ValueError, KeyError) as error:
            return _bad(error)

    async def pin_json(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        try:
            asked = await request.json()
            # Pinata writes the JSON anew, so that its CID is not that of the bytes sent.
            content = json.dumps(asked["pinataContent"], separators=(",", ":"), ensure_ascii=False).encode()
            return self._pinned(request, content, asked.get("pinataOptions", {}))
        except (ValueError, KeyError, TypeError) as error:
            return _bad(error)

    async def pin_list(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        rows = [
            {"id": str(cid)[-12:], "ipfs_pin_hash": str(cid), "size": 0, "date_pinned": _now(), "date_unpinned": None}
            for cid in self._listed(request)
        ]
        return JSONResponse({"rows": rows[: int(request.query_params.get("pageLimit", "10"))]})

    async def files(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        listed = {str(cid) for cid in self._listed(request)}
        found = [record for record in self._files.values() if record["cid"] in listed]
        return JSONResponse({"data": {"files": found, "next_page_token": ""}})

    async def file(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        record = self._files.get(request.path_params["id"])
        if record is None or not any(str(cid) == record["cid"] for cid in self._listed(request)):
            return JSONResponse({"error": {"code": 404, "message": "File not found"}}, 404)
        return JSONResponse({"data": record})

    def _listed(self, request: Request) -> list[CID]:
        """What is pinned, under the CID asked for if there is one; nothing if the stand-in is told not to pin."""
        faults: Faults = request.scope["faults"]
        if faults.never_pinned:
            return []
        wanted = request.query_params.get("cid")
        pins = self._store.pins()
        return pins if wanted is None else [cid for cid in pins if cid.names_same_as(CID.parse(wanted))]

    async def upload(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        try:
            form = _form(await request.body(), request.headers.get("Content-Type", ""))
            public = "network" in form and form["network"].content == b"public"
            as_car = "car" in form and form["car"].content == b"true"
            if as_car and not public:
                return _bad(ValueError("CAR uploads are for the public network"))
            content = form["file"].content
            # A private file is named but is not in the network: nobody finds it there.
            cid = self._from_car(content) if as_car else self._add(content) if public else import_file(content).cid
        except (ValueError, KeyError, MillraceError) as error:
            return _bad(error)
        record: dict[str, Any] = {
            "id": str(cid)[-12:],
            "name": form["name"].content.decode() if "name" in form else "",
            "cid": str(named(request, cid)),
            "created_at": _now(),
            "size": len(content),
            "number_of_files": 1,
            "mime_type": "application/octet-stream",
            "is_duplicate": False,
        }
        self._files[record["id"]] = {**record, "cid": str(cid)}
        return JSONResponse({"data": record})

    def _pinned(self, request: Request, content: bytes, options: dict[str, Any]) -> Response:
        profile = V1 if options.get("cidVersion") == 1 else V0
        cid = self._store.add(content, profile)
        duplicate = any(pinned.names_same_as(cid) for pinned in self._store.pins())
        self._store.pin(cid)
        return JSONResponse(
            {
                "IpfsHash": str(named(request, cid)),
                "PinSize": len(content),
                "Timestamp": _now(),
                "isDuplicate": duplicate,
            }
        )

    def _add(self, content: bytes) -> CID:
        cid = self._store.add(content)
        self._store.pin(cid)
        return cid

    def _from_car(self, car: bytes) -> CID:
        parser = CarParser()
        self._store.put_all(parser.feed(car))
        parser.finish()
        if len(parser.roots) != 1:
            raise ValueError("a CAR must have one root")
        self._store.pin(parser.roots[0])
        return parser.roots[0]

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("Authorization") == f"Bearer {self._jwt}":
            return None
        return JSONResponse({"error": {"reason": "INVALID_CREDENTIALS", "details": "token is malformed"}}, 401)


def _form(body: bytes, content_type: str) -> dict[str, Part]:
    return {part.name: part for part in parse_multipart(content_type, body)}


def _bad(error: Exception) -> Response:
    return JSONResponse({"error": {"reason": "BAD_REQUEST", "details": str(error)}}, 400)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
