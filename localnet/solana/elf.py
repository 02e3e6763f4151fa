"""Reading an ELF-64 little-endian relocatable object, as far as a linker of eBPF code needs it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from millrace.errors import Permanent

EM_BPF = 247
PROGRAM_HEADER_BYTES = 56
SECTION_HEADER_BYTES = 64
_SYMBOL_TABLE, _RELOCATIONS_WITH_ADDENDS, _NO_BITS, _RELOCATIONS = 2, 4, 8, 9
_ALLOCATED = 2


class LinkError(Permanent):
    """The object file cannot become a Solana program."""


@dataclass(frozen=True)
class Section:
    """One section: its header's fields and its bytes."""

    name: str
    kind: int
    loaded: bool
    size: int
    link: int
    info: int
    alignment: int
    content: bytes


@dataclass(frozen=True)
class Symbol:
    """One symbol; `section` is the index of the section that `value` is an offset into."""

    name: str
    section: int
    value: int
    is_section: bool

    @property
    def undefined(self) -> bool:
        """True for a function that the runtime has to provide."""
        return self.section == 0


@dataclass(frozen=True)
class ElfObject:
    """A parsed object file."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read an object file; LinkError if it is cut off or no 64-bit little-endian eBPF object."""
        try:
            sections = tuple(_sections(content))
            table = next((section for section in sections if section.kind == _SYMBOL_TABLE), None)
            if table is None:
                raise LinkError("the object file has no symbol table", hint="compile with -c and do not strip it")
            return cls(sections, tuple(_symbols(table, sections[table.link].content)))
        except (struct.error, IndexError, ValueError) as error:
            raise LinkError(f"the object file is damaged: {error}") from error

    def loaded(self, *prefixes: str) -> Iterator[tuple[int, Section]]:
        """The sections that end up in memory and whose name is one of `prefixes`, or `<prefix>.something`."""
        for index, section in enumerate(self.sections):
            named = any(section.name == prefix or section.name.startswith(f"{prefix}.") for prefix in prefixes)
            if section.loaded and named:
                yield index, section

    def relocations(self) -> Iterator[tuple[int, list[tuple[int, int, Symbol]]]]:
        """For each section with relocations: its index, and (offset, type, symbol) of each."""
        for section in self.sections:
            if section.kind == _RELOCATIONS_WITH_ADDENDS and self.sections[section.info].loaded:
                raise LinkError(f"section {section.name}: eBPF objects keep addends in place")
            if section.kind == _RELOCATIONS:
                pairs = struct.iter_unpack("<QQ", section.content)
                yield section.info, [(at, info & 0xFFFF_FFFF, self.symbols[info >> 32]) for at, info in pairs]


def aligned(position: int, alignment: int) -> int:
    """The first multiple of `alignment` at or after `position`."""
    return -(-position // alignment) * alignment


def _sections(content: bytes) -> Iterator[Section]:
    if content[:6] != b"\x7fELF\x02\x01":
        raise LinkError("not a 64-bit little-endian ELF file", hint="compile with clang -target bpfel -c")
    kind, machine = struct.unpack_from("<HH", content, 16)
    if (kind, machine) != (1, EM_BPF):
        raise LinkError(f"not an eBPF object file (type {kind}, machine {machine})", hint="use clang -target bpfel -c")
    (headers_at,) = struct.unpack_from("<Q", content, 40)
    _, count, names_index = struct.unpack_from("<HHH", content, 58)
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", content, headers_at + SECTION_HEADER_BYTES * index) for index in range(count)
    ]
    names_at, names_size = headers[names_index][4:6]
    names = content[names_at : names_at + names_size]
    for name_at, section_kind, flags, _, offset, size, link, info, alignment, _ in headers:
        body = b"" if section_kind == _NO_BITS else content[offset : offset + size]
        yield Section(
            _string(names, name_at), section_kind, bool(flags & _ALLOCATED), size, link, info, alignment, body
        )


def _symbols(table: Section, names: bytes) -> Iterator[Symbol]:
    for name_at, info, _, section, value, _ in struct.iter_unpack("<IBBHQQ", table.content):
        yield Symbol(_string(names, name_at), section, value, is_section=info & 15 == 3)


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()
