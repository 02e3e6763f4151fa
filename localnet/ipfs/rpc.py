"""A kubo daemon's RPC API, as far as careful clients use it.

Source: https://docs.ipfs.tech/reference/kubo/rpc/
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localnet.ipfs.blockstore import LIMITS, BlockStore
from localnet.ipfs.faults import Faults
from localnet.ipfs.multipart import parse_multipart
from millrace.errors import MillraceError
from protocols.ipfs.car import CarParser, write_car
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.profiles import V0, Profile
from protocols.ipfs.reader import walk_dag

VERSION = "0.38.0"
_PEER_ID = "12D3KooWLocalnet1111111111111111111111111111111111111"
OTHER_CID = CID.of(b"other content than what was uploaded", RAW)

Handler = Callable[[Request], Awaitable[Response]]


def rpc_app(store: BlockStore) -> Starlette:
    """The API over `store`."""
    rpc = _Rpc(store)
    commands: dict[str, Handler] = {
        "version": rpc.version,
        "id": rpc.identity,
        "add": rpc.add,
        "cat": rpc.cat,
        "pin/add": rpc.pin_add,
        "pin/ls": rpc.pin_ls,
        "dag/import": rpc.dag_import,
        "dag/export": rpc.dag_export,
        "block/get": rpc.block_get,
    }
    return Starlette(
        routes=[Route(f"/api/v0/{name}", _answering(handler), methods=["POST"]) for name, handler in commands.items()]
    )


class _Rpc:
    def __init__(self, store: BlockStore) -> None:
        self._store = store

    async def version(self, request: Request) -> Response:
        return JSONResponse({"Version": VERSION, "Commit": "", "Repo": "18", "System": "amd64/linux", "Golang": ""})

    async def identity(self, request: Request) -> Response:
        agent = f"kubo/{VERSION}/localnet"
        return JSONResponse({"ID": _PEER_ID, "PublicKey": "", "Addresses": [], "AgentVersion": agent, "Protocols": []})

    async def add(self, request: Request) -> Response:
        profile = _profile(request)
        lines = []
        for part in parse_multipart(request.headers["Content-Type"], await request.body()):
            cid = self._store.add(part.content, profile)
            if request.query_params.get("pin", "true") == "true":
                self._store.pin(cid)
            name = str(named(request, cid))
            lines.append({"Name": part.filename or name, "Hash": name, "Size": str(len(part.content))})
        return _ndjson(lines)

    async def cat(self, request: Request) -> Response:
        content = self._store.read(_argument(request))
        offset = int(request.query_params.get("offset", "0"))
        length = int(request.query_params.get("length", str(len(content))))
        return Response(content[offset : offset + length], media_type="text/plain")

    async def pin_add(self, request: Request) -> Response:
        cid = _argument(request)
        for _ in walk_dag(cid, self._store.block_of, LIMITS):
            pass  # a pin is of all blocks, so all must be here
        self._store.pin(cid)
        return JSONResponse({"Pins": [str(cid)]})

    async def pin_ls(self, request: Request) -> Response:
        pinned = self._store.pins()
        if "arg" in request.query_params:
            wanted = _argument(request)
            pinned = [cid for cid in pinned if cid.names_same_as(wanted)]
            if not pinned:
                return _error(f"path '/ipfs/{wanted}' is not pinned")
        return JSONResponse({"Keys": {str(named(request, cid)): {"Type": "recursive"} for cid in pinned}})

    async def dag_import(self, request: Request) -> Response:
        parts = parse_multipart(request.headers["Content-Type"], await request.body())
        faults: Faults = request.scope["faults"]
        lines = []
        for part in parts:
            parser = CarParser()
            self._store.put_all(parser.feed(part.content))
            parser.finish()
            for root in parser.roots:
                if request.query_params.get("pin-roots", "true") == "true" and not faults.pin_error:
                    self._store.pin(root)
                shown = {"/": str(named(request, root))}
                lines.append({"Root": {"Cid": shown, "PinErrorMsg": faults.pin_error}})
        return _ndjson(lines)

    async def dag_export(self, request: Request) -> Response:
        cid = _argument(request)
        car = b"".join(write_car(cid, walk_dag(cid, self._store.block_of, LIMITS)))
        return Response(car, media_type="application/vnd.ipld.car")

    async def block_get(self, request: Request) -> Response:
        return Response(self._store.block_of(_argument(request)), media_type="application/octet-stream")


def named(request: Request, cid: CID) -> CID:
    """The CID that an answer names: another one, if the stand-in is told to lie about it."""
    faults: Faults = request.scope["faults"]
    return OTHER_CID if faults.other_cid else cid


def _answering(handler: Handler) -> Handler:
    """`handler`, its errors as kubo tells them: status 500 and a message."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except (MillraceError, ValueError, KeyError) as error:
            return _error(str(error))

    return answer


def _error(message: str) -> Response:
    return JSONResponse({"Message": message, "Code": 0, "Type": "error"}, 500)


def _ndjson(lines: list[dict[str, Any]]) -> Response:
    return Response("".join(f"{json.dumps(line)}\n" for line in lines), media_type="application/json")


def _argument(request: Request) -> CID:
    return CID.parse(request.query_params["arg"].removeprefix("/ipfs/"))


def _profile(request: Request) -> Profile:
    """The import options of `add`, whose defaults are kubo's: version 0, and raw leaves from version 1 on."""
    version = int(request.query_params.get("cid-version", "0"))
    raw_leaves = request.query_params.get("raw-leaves", str(version > 0)).lower() == "true"
    kind, _, size = request.query_params.get("chunker", "size-262144").partition("-")
    if kind != "size":
        raise ValueError(f"chunker {kind!r} is not known here")
    version = 1 if raw_leaves else version  # kubo raises it, because version 0 cannot name raw blocks
    return replace(V0, name="rpc", cid_version=version, raw_leaves=raw_leaves, chunk_bytes=int(size))
