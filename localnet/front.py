"""A node's process in front of a chain that lives in another one: `python -m localnet.front --port 4001 --to 4002`.

It passes bytes between its clients and the stand-in behind it, and does nothing else. Killed by SIGKILL it is, for its
clients, a node that was killed: connections end in the middle of an answer, and the port refuses until it is started
again. The chain survives, as it does on a real node's disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

_PIECE_BYTES = 65_536


async def serve(port: int, to: int) -> None:
    """Listen on loopback at `port` and pass everything on to `to`, until cancelled. OSError if the port is taken."""

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", to)
            await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))
        writer.close()

    server = await asyncio.start_server(passed_on, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until there is no more, then say so."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True, help="where clients find it")
    parser.add_argument("--to", type=int, required=True, help="port of the stand-in, on loopback")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.to))


if __name__ == "__main__":
    main()
