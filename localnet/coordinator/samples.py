"""Work to give out, in the words of the wire: for tests, demos and experiments."""

from __future__ import annotations

from typing import Any

REPO = "https://github.com/example/module"
COMMIT = "c0ffee00" * 5


def compile_task(request_id: int, **other: Any) -> dict[str, Any]:
    """A task of the EARLY API, as an event monitor creates it; `other` members replace or join its own."""
    target = "wasm32-unknown-unknown"
    return {
        "request_id": request_id,
        "data_id": f"{request_id:064x}",
        "code_source": {"type": "GitHub", "repo": REPO, "commit": COMMIT, "build_target": target},
        "resource_limits": {"max_instructions": 10**9, "max_memory_mb": 128, "max_execution_seconds": 60},
        "input_data": "{}",
        **other,
    }


def execution(request_id: int, **other: Any) -> dict[str, Any]:
    """A request of the later API; `other` members replace or join its own."""
    source = {"type": "GitHub", "repo": REPO, "commit": COMMIT, "build_target": "wasm32-wasip1"}
    return {
        **compile_task(request_id),
        "code_source": source,
        "response_format": "Text",
        "context": {"sender_id": "requester.test.near", "block_height": 7, "block_timestamp": 1_760_000_000 * 10**9},
        "near_payment_yocto": str(10**23),
        **other,
    }
