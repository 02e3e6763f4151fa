"""A small static linker: one eBPF object file in, one SBPFv0 shared object for the Solana runtime out.

Every address is resolved here, relative to where the runtime maps a program (0x1_0000_0000). Only calls of
the runtime's own functions (syscalls) stay dynamic. Sources: the ELF-64 object file format; the Linux
kernel's "BPF instruction set: relocations" for the three relocation types that clang emits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from localnet.solana.elf import (
    EM_BPF,
    PROGRAM_HEADER_BYTES,
    SECTION_HEADER_BYTES,
    ElfObject,
    LinkError,
    Section,
    Symbol,
    aligned,
)

PROGRAM_BASE = 0x1_0000_0000
R_BPF_64_64, R_BPF_64_ABS64, R_BPF_64_32 = 1, 2, 10
_HEADER_BYTES = 64
_PROGRAM_HEADERS = 3
_DYNAMIC_ENTRIES = 8


@dataclass
class _Image:
    """The two loaded regions, and the syscalls that the code calls."""

    text_address: int
    rodata_address: int
    text: bytearray
    rodata: bytearray
    section_address: dict[int, int]
    syscalls: dict[str, int] = field(default_factory=dict)
    relocations: list[tuple[int, int]] = field(default_factory=list)

    def address_of(self, symbol: Symbol) -> int:
        if symbol.section not in self.section_address:
            raise LinkError(f"{symbol.name or 'a section'} is in a section that is not loaded")
        return self.section_address[symbol.section] + symbol.value


def link(object_file: bytes, entry: str = "entrypoint") -> bytes:
    """The program as a shared object that the runtime's loader accepts.

    Arguments: `object_file` is what `clang -target bpfel -c` writes; `entry` names the function to start at.
    Raises LinkError if the object is of another kind, has writable variables, or needs a relocation or a
    symbol that SBPF does not have.
    """
    source = ElfObject.parse(object_file)
    image = _laid_out(source)
    for target, relocations in source.relocations():
        if target in image.section_address:
            for offset, kind, symbol in relocations:
                _relocate(image, image.section_address[target] + offset, kind, symbol)
    for symbol in source.symbols:
        if symbol.name == entry and symbol.section in image.section_address:
            return _written(image, image.address_of(symbol))
    raise LinkError(f"no function is called {entry!r}")


def _laid_out(source: ElfObject) -> _Image:
    """Place code and read-only sections behind the headers, in that order."""
    text_address = aligned(_HEADER_BYTES + _PROGRAM_HEADERS * PROGRAM_HEADER_BYTES, 8)
    addresses: dict[int, int] = {}
    text = _joined(source.loaded(".text"), text_address, addresses)
    rodata_address = aligned(text_address + len(text), 16)
    rodata = _joined(source.loaded(".rodata", ".data.rel.ro"), rodata_address, addresses)
    for index, section in enumerate(source.sections):
        if section.loaded and section.size and index not in addresses:
            raise LinkError(f"section {section.name} cannot be loaded: SBPF has no writable variables")
    return _Image(text_address, rodata_address, text, rodata, addresses)


def _joined(sections: Iterator[tuple[int, Section]], address: int, addresses: dict[int, int]) -> bytearray:
    joined = bytearray()
    for index, section in sections:
        joined += bytes(aligned(len(joined), max(1, section.alignment)) - len(joined))
        addresses[index] = address + len(joined)
        joined += section.content
    return joined


def _relocate(image: _Image, at: int, kind: int, symbol: Symbol) -> None:
    if kind == R_BPF_64_64:  # a 64-bit constant split over two instruction slots
        place = at - image.text_address
        addend = _u32(image.text, place + 4) | _u32(image.text, place + 12) << 32
        value = PROGRAM_BASE + image.address_of(symbol) + addend
        struct.pack_into("<I", image.text, place + 4, value & 0xFFFF_FFFF)
        struct.pack_into("<I", image.text, place + 12, value >> 32)
    elif kind == R_BPF_64_ABS64:  # a pointer in a constant table
        place = at - image.rodata_address
        (addend,) = struct.unpack_from("<Q", image.rodata, place)
        struct.pack_into("<Q", image.rodata, place, PROGRAM_BASE + image.address_of(symbol) + addend)
    elif kind == R_BPF_64_32:
        _relocate_call(image, at, symbol)
    else:
        raise LinkError(f"relocation type {kind} of {symbol.name or 'a section'} is not known to SBPF")


def _relocate_call(image: _Image, at: int, symbol: Symbol) -> None:
    place = at - image.text_address
    if symbol.undefined:
        number = image.syscalls.setdefault(symbol.name, len(image.syscalls) + 1)
        image.relocations.append((at, number << 32 | R_BPF_64_32))
        image.text[place + 1] &= 0x0F  # source register 0: the loader fills in the syscall's hash
        struct.pack_into("<i", image.text, place + 4, -1)
        return
    target = image.address_of(symbol)
    if symbol.is_section:  # clang then keeps the function's distance in the instruction, in slots, minus one
        (distance,) = struct.unpack_from("<i", image.text, place + 4)
        target += (distance + 1) * 8
    struct.pack_into("<i", image.text, place + 4, (target - at) // 8 - 1)


def _u32(content: bytearray, at: int) -> int:
    (value,) = struct.unpack_from("<I", content, at)
    return int(value)


@dataclass
class _OutSection:
    name: str
    kind: int
    flags: int
    address: int
    content: bytes
    link: int = 0
    info: int = 0
    alignment: int = 1
    entry_bytes: int = 0


def _written(image: _Image, entry_address: int) -> bytes:
    """The shared object: headers, code, constants, the dynamic tables, names, section headers."""
    sections = [
        _OutSection("", 0, 0, 0, b"", alignment=0),
        _OutSection(".text", 1, 6, image.text_address, bytes(image.text), alignment=8),
        _OutSection(".rodata", 1, 2, image.rodata_address, bytes(image.rodata), alignment=16),
        *_dynamic_sections(image, aligned(image.rodata_address + len(image.rodata), 8)),
    ]
    loaded_end = max(section.address + len(section.content) for section in sections)
    names = b"".join(section.name.encode() + b"\0" for section in sections) + b".shstrtab\0"
    headers_at = aligned(loaded_end + len(names), 8)
    output = bytearray(headers_at + SECTION_HEADER_BYTES * (len(sections) + 1))
    _write_elf_header(output, entry_address, headers_at, len(sections) + 1)
    dynamic = next((section for section in sections if section.name == ".dynamic"), None)
    _write_segment(output, 0, 1, 5, image.text_address, len(image.text))
    _write_segment(output, 1, 1, 4, image.rodata_address, loaded_end - image.rodata_address)
    if dynamic is not None:
        _write_segment(output, 2, 2, 6, dynamic.address, len(dynamic.content))
    sections.append(_OutSection(".shstrtab", 3, 0, loaded_end, names))
    name_at = 0
    for index, section in enumerate(sections):
        output[section.address : section.address + len(section.content)] = section.content
        _write_section_header(output, headers_at + SECTION_HEADER_BYTES * index, name_at, section)
        name_at += len(section.name) + 1
    return bytes(output)


def _dynamic_sections(image: _Image, address: int) -> list[_OutSection]:
    """What the loader needs to find the syscalls: none of it if the program calls none."""
    if not image.relocations:
        return []
    names = b"\0" + b"".join(name.encode() + b"\0" for name in image.syscalls)
    offsets = list(accumulate((len(name) + 1 for name in image.syscalls), initial=1))[:-1]
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", offset, 0x10, 0, 0, 0, 0) for offset in offsets)
    relocations = b"".join(struct.pack("<QQ", *relocation) for relocation in image.relocations)
    symbols_at = address + _DYNAMIC_ENTRIES * 16
    names_at = symbols_at + len(symbols)
    relocations_at = aligned(names_at + len(names), 8)
    # DT_REL, DT_RELSZ, DT_RELENT, DT_SYMTAB, DT_SYMENT, DT_STRTAB, DT_STRSZ, DT_NULL
    entries = [
        (17, relocations_at), (18, len(relocations)), (19, 16), (6, symbols_at),
        (11, 24), (5, names_at), (10, len(names)), (0, 0),
    ]  # fmt: skip
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    strings, symbol_table = 5, 4  # their places in the section table
    return [
        _OutSection(".dynamic", 6, 3, address, dynamic, strings, 0, 8, 16),
        _OutSection(".dynsym", 11, 2, symbols_at, symbols, strings, 1, 8, 24),
        _OutSection(".dynstr", 3, 2, names_at, names),
        _OutSection(".rel.dyn", 9, 2, relocations_at, relocations, symbol_table, 0, 8, 16),
    ]


def _write_elf_header(output: bytearray, entry_address: int, sections_at: int, section_count: int) -> None:
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    shared_object, version, flags = 3, 1, 0  # flags 0 means SBPFv0
    struct.pack_into(
        "<16sHHIQQQIHHHHHH", output, 0, identity, shared_object, EM_BPF, version, entry_address, _HEADER_BYTES,
        sections_at, flags, _HEADER_BYTES, PROGRAM_HEADER_BYTES, _PROGRAM_HEADERS, SECTION_HEADER_BYTES,
        section_count, section_count - 1,
    )  # fmt: skip


def _write_segment(output: bytearray, index: int, kind: int, flags: int, address: int, size: int) -> None:
    at = _HEADER_BYTES + PROGRAM_HEADER_BYTES * index
    alignment = 0x1000 if kind == 1 else 8
    struct.pack_into("<IIQQQQQQ", output, at, kind, flags, address, address, address, size, size, alignment)


def _write_section_header(output: bytearray, at: int, name_at: int, section: _OutSection) -> None:
    loaded_at = section.address if section.name != ".shstrtab" else 0
    struct.pack_into(
        "<IIQQQQIIQQ", output, at, name_at, section.kind, section.flags, loaded_at, section.address,
        len(section.content), section.link, section.info, section.alignment, section.entry_bytes,
    )  # fmt: skip
