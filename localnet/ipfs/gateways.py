"""Two HTTP gateways: one that knows the trustless formats, and one from before them.

Sources: https://specs.ipfs.tech/http-gateways/trustless-gateway/ and path-gateway.
"""

from __future__ import annotations

from collections.abc import Iterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from localnet.ipfs.blockstore import LIMITS, BlockStore
from millrace.errors import MillraceError
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentUnavailable, InvalidCID
from protocols.ipfs.reader import walk_dag

_RAW_TYPE = "application/vnd.ipld.raw"
_CAR_TYPE = "application/vnd.ipld.car"


def gateway_app(store: BlockStore, *, trustless: bool) -> Starlette:
    """A gateway over `store`; without `trustless` it ignores `format` and `Accept`, as old ones do."""

    async def serve(request: Request) -> Response:
        try:
            cid = CID.parse(request.path_params["cid"])
        except InvalidCID as error:
            return PlainTextResponse(f"invalid path: {error.message}\n", 400)
        try:
            return _serve(store, cid, _format(request) if trustless else "", request)
        except MillraceError as error:
            return PlainTextResponse(f"failed to resolve: {error.message}\n", 404)

    return Starlette(routes=[Route("/ipfs/{cid}", serve, methods=["GET", "HEAD"])])


def _serve(store: BlockStore, cid: CID, form: str, request: Request) -> Response:
    headers = {
        "Cache-Control": "public, max-age=29030400, immutable",
        "Etag": f'"{cid}"',
        "X-Ipfs-Path": f"/ipfs/{cid}",
    }
    if form == "raw":
        return Response(store.block_of(cid), media_type=_RAW_TYPE, headers=headers)
    if form == "car":
        store.block_of(cid)  # a missing root is a 404; a missing child is a stream that ends early
        whole = request.query_params.get("dag-scope", "all") != "block"
        car = b"".join(write_car(cid, _reachable(store, cid, whole)))
        return Response(car, media_type=f"{_CAR_TYPE}; version=1; order=dfs; dups=n", headers=headers)
    return Response(store.read(cid), media_type="application/octet-stream", headers=headers)


def _reachable(store: BlockStore, root: CID, whole: bool) -> Iterator[tuple[CID, bytes]]:
    blocks = walk_dag(root, store.block_of, LIMITS)
    try:
        for cid, block in blocks:
            yield cid, block
            if not whole:
                return
    except ContentUnavailable:
        return


def _format(request: Request) -> str:
    """The query wins over the header, as the specification has it."""
    if "format" in request.query_params:
        return request.query_params["format"]
    accepted = request.headers.get("Accept", "")
    return "raw" if _RAW_TYPE in accepted else "car" if _CAR_TYPE in accepted else ""
