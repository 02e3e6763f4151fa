"""A challenge in a process of its own, which may be killed: `python -m stages.execute.matmul.child`.

Reads a request as JSON from its standard input; writes a solution, or the error, as JSON to its standard output. A card
that is lost, or memory that is gone, ends this process and nothing else.
"""

from __future__ import annotations

import sys
from typing import Literal

from millrace.errors import Declined, MillraceError, Transient
from stages.execute.matmul.request import Failure, Reply, Request
from stages.execute.matmul.solve import solve


def main() -> None:
    """Answer one request."""
    request = Request.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.write(answer(request).model_dump_json())
    sys.stdout.flush()


def answer(request: Request) -> Reply:
    """The solution, or what stands in its way."""
    try:
        solution = solve(
            request.challenge,
            device=request.device,
            sampled_rows=request.sampled_rows,
            locks=request.locks,
            patience_seconds=request.patience_seconds,
        )
        return Reply(solution=solution)
    except Declined as error:
        return Reply(failure=Failure(kind="declined", message=error.message, hint=error.hint, reason=error.reason))
    except MillraceError as error:
        kind: Literal["transient", "permanent"] = "transient" if isinstance(error, Transient) else "permanent"
        return Reply(failure=Failure(kind=kind, message=error.message, hint=error.hint))
    except MemoryError:
        hint = "something else took this machine's memory meanwhile; a smaller MILLRACE_COMPUTECHAIN__SIZE needs less"
        return Reply(failure=Failure(kind="transient", message="this machine ran out of memory", hint=hint))


if __name__ == "__main__":
    main()
