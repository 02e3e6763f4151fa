"""How to call a module, from what it exports; the target it was built for decides only where two ways are left."""

from __future__ import annotations

from stages.execute.wasm.interface import Abi, Status
from stages.execute.wasm.sections import Facts

_WASI_P1 = "wasi_snapshot_preview1"


def detect_abi(facts: Facts, target: str = "") -> Abi:
    """The ABI of a module with these facts; of one that has no entry at all, the one that its target would have."""
    if facts.component:
        return Abi.wasi_p2
    command, function = "_start" in facts.exports, "execute" in facts.exports
    if command != function:
        return Abi.wasi_p1 if command else Abi.execute
    return Abi.execute if target.endswith("unknown-unknown") else Abi.wasi_p1


def objection(facts: Facts, abi: Abi) -> tuple[Status, str] | None:
    """Why a module cannot be called that way, as far as can be told before it is compiled; None if nothing is wrong."""
    if abi is Abi.wasi_p2:
        return None  # its imports and exports are typed interfaces: the engine compares them
    needed = ("execute", "memory") if abi is Abi.execute else ("_start",)
    if missing := [name for name in needed if name not in facts.exports]:
        return Status.missing_export, f"the module does not export {' or '.join(missing)}"
    unknown = sorted(f"{module}::{name}" for module, name in facts.imports if module != _WASI_P1)
    if unknown:
        return Status.missing_import, f"the module imports {', '.join(unknown[:5])}, which nothing here provides"
    return None
