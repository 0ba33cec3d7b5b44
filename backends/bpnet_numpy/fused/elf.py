"""Makes an image of an object file: of what LLVM writes for x86-64 on Linux, in ELF, and of nothing else.

LLVM compiles what is to be run at once for the large code model: every address that a function needs is a word of
64 bits in its code, which is the place's own once it is known. Whatever an object has beyond that is refused.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bpnet_numpy.fused.image import PAGE, Image, Unloadable

_X86_64, _RELOCATABLE = 62, 1
_WRITE, _ALLOCATE, _THREAD_LOCAL = 1, 2, 0x400
_SYMBOLS, _ADDENDS, _NO_BITS, _NO_ADDENDS = 2, 4, 8, 9
_UNDEFINED, _RESERVED, _COMMON = 0, 0xFF00, 0xFFF2
_ABSOLUTE_64 = 1
_RELATIVE = {2: 32, 4: 32, 24: 64}
"""Relocations that hold a distance (R_X86_64_PC32, PLT32, PC64), with their bits."""

_MOST = 1 << 24
"""Bytes of zeros that an object may ask for; one that asks for more is damaged."""


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int  # of what is common: its alignment
    size: int


def image(code: bytes, name: str) -> Image:
    """What has to be in memory so that the function of that name runs. Raises Unloadable."""
    try:
        return _image(code, name)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise Unloadable(f"not an object file: {error}") from None


def _image(code: bytes, name: str) -> Image:
    sections = _sections(code)
    names = [_text(code, sections[_section_names(code)].offset + each.name) for each in sections]
    placed = _Layout(code, sections, names)
    table = next((each for each in sections if each.type == _SYMBOLS), None)
    if table is None:
        raise Unloadable("no symbols")
    symbols = [
        _Symbol(_text(code, sections[table.link].offset + text), section, value, size)
        for text, _, _, section, value, size in struct.iter_unpack("<IBBHQQ", _content(code, table))
    ]
    entries = [each for each in symbols if each.name == name and each.section in placed.starts]
    if len(entries) != 1:
        raise Unloadable(f"{len(entries)} functions of the name {name}")
    relocations = []
    for section in sections:
        if section.type == _NO_ADDENDS and section.info in placed.starts:
            raise Unloadable("relocations without addends")
        if section.type != _ADDENDS or section.info not in placed.starts:
            continue
        for offset, info, addend in struct.iter_unpack("<QQq", _content(code, section)):
            place, kind, symbol = placed.starts[section.info] + offset, info & 0xFFFFFFFF, symbols[info >> 32]
            where = placed.of(symbol)
            if kind == _ABSOLUTE_64:
                relocations.append((place, symbol.name if where is None else "", addend + (where or 0)))
            elif kind in _RELATIVE and where is not None:
                size = _RELATIVE[kind] // 8
                distance = (where + addend - place).to_bytes(size, "little", signed=True)
                placed.memory[place : place + size] = distance
            else:
                raise Unloadable(f"relocation {kind} of {symbol.name!r}")
    memory, writable = placed.whole()
    return Image(memory, writable, placed.starts[entries[0].section] + entries[0].value, tuple(relocations))


def _sections(code: bytes) -> list[_Section]:
    magic, kind, machine = struct.unpack_from("<6s10xHH", code)
    if (magic, kind, machine) != (b"\x7fELF\x02\x01", _RELOCATABLE, _X86_64):
        raise Unloadable("not an object file for x86-64")
    (start,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    return [_Section(*struct.unpack_from("<IIQQQQIIQQ", code, start + size * i)) for i in range(count)]


def _section_names(code: bytes) -> int:
    return int(struct.unpack_from("<H", code, 62)[0])


def _text(code: bytes, start: int) -> str:
    return code[start : code.index(b"\0", start)].decode("ascii")


def _content(code: bytes, section: _Section) -> bytes:
    found = code[section.offset : section.offset + section.size]
    if len(found) != section.size:
        raise Unloadable("an object file that ends too early")
    return found


def _zeros(size: int) -> bytes:
    if size > _MOST:
        raise Unloadable(f"{size} bytes of zeros")
    return bytes(size)


class _Layout:
    """Where sections lie in memory: what is only read first, then, from a page's start on, what is written."""

    def __init__(self, code: bytes, sections: list[_Section], names: list[str]) -> None:
        self.starts: dict[int, int] = {}
        self.memory = bytearray()
        self._common: dict[str, int] = {}
        for writable in (0, _WRITE):
            if writable:
                self._align(PAGE)
                self._writable = len(self.memory)
            for i, section in enumerate(sections):
                if not section.flags & _ALLOCATE or section.flags & _WRITE != writable or names[i] == ".eh_frame":
                    continue
                if section.flags & _THREAD_LOCAL:
                    raise Unloadable("memory of a thread")
                self._align(max(1, section.alignment))
                self.starts[i] = len(self.memory)
                self.memory += _zeros(section.size) if section.type == _NO_BITS else _content(code, section)

    def _align(self, size: int) -> None:
        if size > PAGE:
            raise Unloadable(f"an alignment of {size}")
        self.memory += bytes(-len(self.memory) % size)

    def of(self, symbol: _Symbol) -> int | None:
        """Where a symbol is; None where it is not of this object."""
        if symbol.section == _COMMON:
            if symbol.name not in self._common:
                self._align(max(1, symbol.value))
                self._common[symbol.name] = len(self.memory)
                self.memory += _zeros(symbol.size)
            return self._common[symbol.name]
        if symbol.section == _UNDEFINED:
            return None
        if symbol.section >= _RESERVED or symbol.section not in self.starts:
            raise Unloadable(f"the symbol {symbol.name!r} in section {symbol.section}")
        return self.starts[symbol.section] + symbol.value

    def whole(self) -> tuple[bytes, int]:
        """All of it, and where the part begins that is written."""
        return bytes(self.memory), self._writable
