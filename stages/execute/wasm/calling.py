"""The ways to call a guest: a command, a component, and a function that is handed a pointer to its input."""

from __future__ import annotations

import os
from typing import Any

from stages.execute.wasm.endings import Ended

_ALLOCATORS = ("alloc", "malloc", "__alloc", "allocate")
_PAGE = 65_536
_CLEAR_PAGES = 16
"""Left below the input in a memory that begins empty, for the guest's own use."""


class Caller:
    """Calls one guest in `store`. `given` is the input of a function, whose answer goes to the descriptor `stdout`."""

    def __init__(self, engine: Any, linker: Any, store: Any, job: dict[str, Any], given: bytes, stdout: int) -> None:
        self._engine, self._linker, self._store, self._job = engine, linker, store, job
        self._given, self._stdout = given, stdout
        self.began = False
        """Whether the guest was instantiated: what goes wrong after that is of its own doing."""
        self.memory: Any = None
        """The guest's exported memory, where it has one."""

    def call(self, code: bytes) -> None:
        """Run the guest to its end. Raises Ended, or what the engine raises."""
        if self._job["abi"] == "wasi_p2":
            self._call_component(code)
        else:
            self._call_module(code)

    def _call_module(self, code: bytes) -> None:
        import wasmtime

        store = self._store
        module = wasmtime.Module.deserialize(self._engine, code)
        instance = self._linker.instantiate(store, module)
        self.began = True
        exports = instance.exports(store)
        memory = exports.get("memory")
        self.memory = memory if isinstance(memory, wasmtime.Memory) else None
        if self._job["abi"] == "wasi_p1":
            self._function(exports, "_start", [], [])(store)
            return
        if self.memory is None:
            raise Ended("missing_export", "the export `memory` is no memory")
        execute = self._function(exports, "execute", ["i32", "i32"], ["i32"])
        if "_initialize" in exports:
            self._function(exports, "_initialize", [], [])(store)
        given = self._given
        self._answer(execute(store, _signed(self._place(exports, given)), _signed(len(given))))

    def _call_component(self, code: bytes) -> None:
        import wasmtime.component as component

        store = self._store
        made = component.Component.deserialize(self._engine, code)
        run = next((name for name in made.type.exports(self._engine) if name.startswith("wasi:cli/run@0.2.")), None)
        if run is None:
            raise Ended("missing_export", "the component does not export wasi:cli/run@0.2")
        instance = self._linker.instantiate(store, made)
        self.began = True
        index = instance.get_export_index(store, run)
        index = instance.get_export_index(store, "run", index) if index is not None else None
        function = instance.get_func(store, index) if index is not None else None
        if function is None:
            raise Ended("missing_export", f"{run} has no function `run`")
        answer = function(store)
        if getattr(answer, "tag", "ok") != "ok":
            raise Ended("exit", "`run` returned an error", code=1)

    def _function(self, exports: Any, name: str, takes: list[str], gives: list[str]) -> Any:
        import wasmtime

        found = exports.get(name)
        if not isinstance(found, wasmtime.Func):
            raise Ended("missing_export", f"there is no function `{name}` among the exports")
        if self._signature(found) != (takes, gives):
            raise Ended("missing_export", f"`{name}` is not a function of ({', '.join(takes)}) -> ({', '.join(gives)})")
        return found

    def _signature(self, function: Any) -> tuple[list[str], list[str]]:
        kind = function.type(self._store)
        return [str(one) for one in kind.params], [str(one) for one in kind.results]

    def _place(self, exports: Any, given: bytes) -> int:
        """Put the input where the guest has nothing: where its allocator says, else behind its memory."""
        import wasmtime

        memory, store = self.memory, self._store
        for name in _ALLOCATORS:
            found = exports.get(name)
            if isinstance(found, wasmtime.Func) and self._signature(found) == (["i32"], ["i32"]):
                at = int(found(store, _signed(len(given)))) & 0xFFFF_FFFF
                if at == 0 or at + len(given) > memory.data_len(store):
                    raise Ended("memory", f"`{name}` gave no room for the input of {len(given)} bytes")
                memory.write(store, given, at)
                return at
        size = memory.data_len(store)
        # Offset 0 is a null pointer in most languages, so an empty memory gets room before the input too.
        before = 0 if size else _CLEAR_PAGES
        try:
            memory.grow(store, before + max(1, -(-len(given) // _PAGE)))
            at = size + before * _PAGE
        except wasmtime.WasmtimeError:
            # A memory that cannot grow: at its beginning, where the network's first worker put every input.
            if len(given) > size:
                raise Ended("memory", f"there is no room for the input of {len(given)} bytes") from None
            at = 0
        memory.write(store, given, at)
        return at

    def _answer(self, returned: int) -> None:
        """Write out what `execute` returned a pointer to."""
        if returned < 0:
            raise Ended("guest_error", f"`execute` returned {returned}", code=returned)
        memory, store = self.memory, self._store
        size, begin = memory.data_len(store), returned + 4
        if begin > size:
            raise Ended("bad_result", f"the result at {returned} lies outside the memory of {size} bytes")
        length = int.from_bytes(memory.read(store, returned, begin), "little")
        if begin + length > size:
            raise Ended("bad_result", f"the result of {length} bytes at {returned} ends outside the memory")
        if length > self._job["output_bytes"]:
            raise Ended("output_limit", f"the result has {length} bytes, more than {self._job['output_bytes']}")
        at = begin
        while at < begin + length:
            at += os.write(self._stdout, memory.read(store, at, min(begin + length, at + (1 << 20))))


def _signed(number: int) -> int:
    """The i32 with these bits."""
    return number - (1 << 32) if number >= 1 << 31 else number
