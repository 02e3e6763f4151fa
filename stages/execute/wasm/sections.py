"""What a module says of itself, read without an engine: before anything is compiled, that it is worth compiling.

A module of under a megabyte can take a compiler a quarter of a minute and a gigabyte. So the section headers and the
lengths of vectors are read here first, and held against caps. What is read is not validated: the compiler does that.

Source: WebAssembly Core Specification 2.0, section 5.5; for components, the component model's Binary.md.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

from millrace.limits import MIB

_CORE, _COMPONENT = b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"


class Section(IntEnum):
    """A core module's sections whose entries are counted."""

    type = 1
    import_ = 2
    function = 3
    table = 4
    memory = 5
    global_ = 6
    export = 7
    element = 9
    code = 10
    data = 11
    tag = 13


_COMPONENT_CORE_MODULE, _COMPONENT_NESTED = 1, 4
_MOST_DEPTH = 8
_MOST_SECTIONS = 10_000


@dataclass(frozen=True)
class Caps:
    """The largest modules that are compiled. Entries of all core modules of a component count together."""

    module_bytes: int = 16 * MIB
    function_bytes: int = MIB
    entries: dict[Section, int] = field(
        default_factory=lambda: {
            Section.type: 20_000,
            Section.import_: 5_000,
            Section.function: 40_000,
            Section.table: 100,
            Section.memory: 100,
            Section.global_: 20_000,
            Section.export: 20_000,
            Section.element: 20_000,
            Section.code: 40_000,
            Section.data: 50_000,
            Section.tag: 1_000,
        }
    )


class BadModule(Exception):
    """These bytes are no module, or no sound one."""


class TooLarge(Exception):
    """A cap is exceeded; the text says which."""


@dataclass
class Facts:
    """What was read: whether it is a component, and of a core module what it imports and exports."""

    component: bool
    entries: Counter[Section] = field(default_factory=Counter)
    imports: set[tuple[str, str]] = field(default_factory=set)
    exports: set[str] = field(default_factory=set)


def examine(module: bytes, caps: Caps | None = None) -> Facts:
    """Read the headers of `module`, a core module or a component.

    Raises BadModule if that is not possible, TooLarge if it is over one of the caps.
    """
    caps = caps or Caps()
    if len(module) > caps.module_bytes:
        raise TooLarge(f"the module has {len(module)} bytes, more than {caps.module_bytes}")
    facts = Facts(component=module[:8] == _COMPONENT)
    if module[:8] not in (_CORE, _COMPONENT):
        raise BadModule(f"it begins with {module[:8].hex() or 'nothing'}: no WASM module of version 1, nor a component")
    _Reader(memoryview(module), facts, caps).read(0, len(module), depth=0)
    return facts


@dataclass
class _Reader:
    whole: memoryview
    facts: Facts
    caps: Caps
    sections: int = 0

    def read(self, start: int, end: int, *, depth: int) -> None:
        """One module or component, which begins at `start`."""
        header = bytes(self.whole[start : start + 8])
        at = start + 8
        while at < end:
            self.sections += 1
            if self.sections > _MOST_SECTIONS:
                raise TooLarge(f"the module has more than {_MOST_SECTIONS} sections")
            kind = self.whole[at]
            size, content = self._number(at + 1, end)
            at = content + size
            if at > end:
                raise BadModule("a section is longer than the module")
            if header == _CORE:
                self._core_section(kind, content, at, top=depth == 0)
            elif kind in (_COMPONENT_CORE_MODULE, _COMPONENT_NESTED):
                if depth >= _MOST_DEPTH:
                    raise TooLarge(f"components are nested more than {_MOST_DEPTH} deep")
                if bytes(self.whole[content : content + 8]) not in (_CORE, _COMPONENT):
                    raise BadModule("what a component contains is no module")
                self.read(content, at, depth=depth + 1)

    def _core_section(self, kind: int, at: int, end: int, *, top: bool) -> None:
        if kind not in list(Section):
            return
        section = Section(kind)
        count, at = self._number(at, end)
        self.facts.entries[section] += count
        cap = self.caps.entries.get(section)
        if cap is not None and self.facts.entries[section] > cap:
            raise TooLarge(f"the {section.name.rstrip('_')} section has more than {cap} entries")
        if section is Section.code:
            self._bodies(count, at, end)
        elif section is Section.import_ and top:
            self._imports(count, at, end)
        elif section is Section.export and top:
            self._exports(count, at, end)

    def _bodies(self, count: int, at: int, end: int) -> None:
        for _ in range(count):
            size, at = self._number(at, end)
            if size > self.caps.function_bytes:
                raise TooLarge(f"a function has {size} bytes, more than {self.caps.function_bytes}")
            at += size

    def _imports(self, count: int, at: int, end: int) -> None:
        for _ in range(count):
            module, at = self._name(at, end)
            name, at = self._name(at, end)
            self.facts.imports.add((module, name))
            at = self._skip_description(at, end)

    def _exports(self, count: int, at: int, end: int) -> None:
        for _ in range(count):
            name, at = self._name(at, end)
            self.facts.exports.add(name)
            _, at = self._number(at + 1, end)

    def _skip_description(self, at: int, end: int) -> int:
        kind = self._byte(at, end)
        at += 1
        if kind == 0:  # a function's type
            return self._number(at, end)[1]
        if kind == 1:  # a table: its type, which may be two bytes or more, then its limits
            if self._byte(at, end) in (0x63, 0x64):
                at = self._number(at + 1, end)[1] - 1
            return self._skip_limits(at + 1, end)
        if kind == 2:
            return self._skip_limits(at, end)
        if kind == 3:  # a global: its type and whether it may change
            if self._byte(at, end) in (0x63, 0x64):
                at = self._number(at + 1, end)[1] - 1
            return at + 2
        if kind == 4:  # a tag
            return self._number(at + 1, end)[1]
        raise BadModule(f"an import of the unknown kind {kind}")

    def _skip_limits(self, at: int, end: int) -> int:
        flags = self._byte(at, end)
        _, at = self._number(at + 1, end)
        return self._number(at, end)[1] if flags & 1 else at

    def _name(self, at: int, end: int) -> tuple[str, int]:
        size, at = self._number(at, end)
        if at + size > end:
            raise BadModule("a name is longer than its section")
        try:
            return bytes(self.whole[at : at + size]).decode(), at + size
        except UnicodeDecodeError:
            raise BadModule("a name is not UTF-8") from None

    def _byte(self, at: int, end: int) -> int:
        if at >= end:
            raise BadModule("a section ends in the middle of an entry")
        return self.whole[at]

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """The unsigned LEB128 number at `at`, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte(at, end)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise BadModule("a number has more than ten bytes")
