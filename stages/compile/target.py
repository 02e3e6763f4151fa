"""What a repository is built for."""

from __future__ import annotations

from enum import StrEnum

from millrace.errors import Declined, DeclineReason


class BuildTarget(StrEnum):
    """Rust's names of the kinds of WASM that are built."""

    bare = "wasm32-unknown-unknown"  # a library that exports `execute`, with nothing around it
    wasi_p1 = "wasm32-wasip1"  # a command, or a library with WASI around it
    wasi_p2 = "wasm32-wasip2"  # a component


_FORMER_NAMES = {"wasm32-wasi": BuildTarget.wasi_p1}


def build_target(name: str) -> BuildTarget:
    """The target that a job names; `wasm32-wasi` is what Rust called `wasm32-wasip1` before 1.84.

    Raises Declined (unsupported) for any other.
    """
    if name in _FORMER_NAMES:
        return _FORMER_NAMES[name]
    try:
        return BuildTarget(name)
    except ValueError:
        known = ", ".join([*BuildTarget, *_FORMER_NAMES])
        raise Declined(
            f"the target {name[:100]!r} is none that is built",
            reason=DeclineReason.unsupported,
            hint=f"there are {known}",
        ) from None
