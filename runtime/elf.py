"""Links an ELF object for x86-64 into position-independent machine code, without a linker.

What kernels are compiled to needs little: code, read-only data, and a few kinds of references between them.
Anything else is refused, and left to LLVM's linker. Source: System V Application Binary Interface, AMD64
Architecture Processor Supplement, section 4.4 (relocation) and the generic ABI, chapter 4 (object files):
https://gitlab.com/x86-psABIs/x86-64-ABI, https://www.sco.com/developers/gabi/latest/contents.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field

from onnxplan.compiler.records import dataclass
from onnxplan.runtime.image import ALIGNMENT, Image


class ElfError(ValueError):
    """The object needs more than :func:`link` can do, or is damaged."""


_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_RELOCATABLE, _X86_64 = 1, 62
_SYMBOLS, _ADDENDS, _NO_BITS = 2, 4, 8
_WRITE, _ALLOCATE, _THREAD_LOCAL = 1, 2, 0x400
_COMMON, _ABSOLUTE = 0xFFF2, 0xFFF1
_SECTION_SYMBOL = 3
_ADDRESS = 1
_GLOBAL_OFFSET_TABLE = "_GLOBAL_OFFSET_TABLE_"
_JUMP = b"\xff\x25"
"""``jmp [rip + displacement of 32 bits]``"""
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    section: int
    value: int
    is_global: bool


def link(code: bytes) -> Image:
    """The machine code of an ELF object for x86-64; :class:`ElfError` where it is anything else."""
    try:
        return _Linker(code).run()
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ElfError(f"damaged object: {error}") from error


@dataclass(slots=True)
class _Linker:
    data: bytes
    sections: list[_Section] = field(init=False)
    bases: dict[int, int] = field(default_factory=dict)
    image: bytearray = field(default_factory=bytearray)
    table: dict[str, int] = field(default_factory=dict)
    """The global offset table: offset in the image of each symbol's word. Its first word is of no symbol."""
    stubs: dict[str, int] = field(default_factory=dict)
    imports: list[tuple[str, int]] = field(default_factory=list)
    rebases: list[int] = field(default_factory=list)

    def run(self) -> Image:
        self.sections = list(self._read_sections())
        for number, section in enumerate(self.sections):
            if section.flags & _ALLOCATE and self._name(section) != ".eh_frame":
                self._place(number, section)
        tables = [number for number, section in enumerate(self.sections) if section.kind == _SYMBOLS]
        if len(tables) != 1:
            raise ElfError(f"{len(tables)} symbol tables")
        symbols = list(self._read_symbols(tables[0]))
        self._align(8)
        self.table[_GLOBAL_OFFSET_TABLE] = len(self.image)
        self.image += bytes(8)
        for section in self.sections:
            if section.kind == _ADDENDS and section.info in self.bases:
                for place, kind, symbol, addend in self._relocations(section):
                    self._relocate(self.bases[section.info] + place, kind, symbols[symbol], addend)
        self._align(ALIGNMENT)
        exports = {
            symbol.name: self.bases[symbol.section] + symbol.value
            for symbol in symbols
            if symbol.is_global and symbol.section in self.bases
        }
        return Image(bytes(self.image), exports, tuple(self.imports), tuple(self.rebases))

    def _read_sections(self) -> Iterator[_Section]:
        identity, kind, machine, _, _, _, start, _, _, _, _, size, count, _ = _HEADER.unpack_from(self.data)
        if identity[:6] != b"\x7fELF\x02\x01" or kind != _RELOCATABLE or machine != _X86_64:
            raise ElfError("no relocatable object for x86-64")
        if size != _SECTION.size or count == 0:
            raise ElfError("no table of sections")
        for number in range(count):
            fields = _SECTION.unpack_from(self.data, start + number * size)
            name, kind, flags, _, offset, length, linked, info, alignment, _ = fields
            if kind != _NO_BITS and offset + length > len(self.data):
                raise ElfError(f"section {number} reaches beyond the object")
            yield _Section(name, kind, flags, offset, length, linked, info, max(alignment, 1))

    def _place(self, number: int, section: _Section) -> None:
        # What is relocated and then only read counts as written to.
        writable = section.flags & _WRITE and not self._name(section).startswith(".data.rel.ro")
        if section.size and (writable or section.flags & _THREAD_LOCAL):
            raise ElfError(f"section {self._name(section)} is written to")
        if section.alignment > ALIGNMENT or section.alignment & (section.alignment - 1):
            raise ElfError(f"section {self._name(section)} is aligned to {section.alignment} bytes")
        if len(self.image) + section.size > _MOST_BYTES:
            raise ElfError("more code than can be addressed")
        self._align(section.alignment)
        self.bases[number] = len(self.image)
        if section.kind == _NO_BITS:
            self.image += bytes(section.size)
        else:
            self.image += self.data[section.offset : section.offset + section.size]

    def _align(self, alignment: int) -> None:
        self.image += bytes(-len(self.image) % alignment)

    def _name(self, section: _Section) -> str:
        (strings,) = struct.unpack_from("<H", self.data, 62)
        return self._text(strings, section.name)

    def _text(self, table: int, start: int) -> str:
        section = self.sections[table]
        begin = section.offset + start
        end = self.data.find(b"\0", begin, section.offset + section.size)
        if end < 0:
            raise ElfError("a name without an end")
        return self.data[begin:end].decode()

    def _read_symbols(self, number: int) -> Iterator[_Symbol]:
        section = self.sections[number]
        for start in range(section.offset, section.offset + section.size, _SYMBOL.size):
            name, info, _, index, value, _ = _SYMBOL.unpack_from(self.data, start)
            if index in (_COMMON, _ABSOLUTE) and info & 15 < _SECTION_SYMBOL:
                raise ElfError("a symbol in no section")
            yield _Symbol(self._text(section.link, name), index, value, info >> 4 != 0)

    def _relocations(self, section: _Section) -> Iterator[tuple[int, int, int, int]]:
        for start in range(section.offset, section.offset + section.size, _RELOCATION.size):
            place, info, addend = _RELOCATION.unpack_from(self.data, start)
            yield place, info & 0xFFFFFFFF, info >> 32, addend

    # References

    def _relocate(self, place: int, kind: int, symbol: _Symbol, addend: int) -> None:
        rule = _RULES.get(kind)
        if rule is None:
            raise ElfError(f"a reference of kind {kind}")
        width, value = rule
        if symbol.section == 0 and symbol.name != _GLOBAL_OFFSET_TABLE and kind == _ADDRESS:
            if addend:
                raise ElfError(f"a reference to what is {addend} bytes behind {symbol.name}")
            self.imports.append((symbol.name, place))
            return
        self._store(place, width, value(self, symbol, place) + addend)

    def _store(self, place: int, width: int, value: int) -> None:
        if not 0 <= place <= len(self.image) - width:
            raise ElfError("a reference outside of its section")
        if not -(1 << 8 * width - 1) <= value < 1 << 8 * width - 1:
            raise ElfError(f"a distance of {value} in {8 * width} bits")
        self.image[place : place + width] = value.to_bytes(width, "little", signed=True)

    def defined(self, symbol: _Symbol) -> int:
        """The offset of a symbol of this object."""
        if symbol.name == _GLOBAL_OFFSET_TABLE:
            return self.origin
        if symbol.section not in self.bases:
            raise ElfError(f"a reference to {symbol.name or 'a section that is not mapped'}")
        return self.bases[symbol.section] + symbol.value

    @property
    def origin(self) -> int:
        return self.table[_GLOBAL_OFFSET_TABLE]

    def entry(self, symbol: _Symbol) -> int:
        """The offset of the word that holds a symbol's address."""
        key = symbol.name if symbol.section == 0 else f"{symbol.section}:{symbol.value}"
        place = self.table.get(key)
        if place is None:
            self._align(8)
            place = self.table[key] = len(self.image)
            self.image += bytes(8)
            if symbol.section == 0:
                self.imports.append((symbol.name, place))
            else:
                self._store(place, 8, self.defined(symbol))
                self.rebases.append(place)
        return place

    def callee(self, symbol: _Symbol) -> int:
        """The offset of what a call of the symbol jumps to: for those of other objects, a jump of our own."""
        if symbol.section != 0:
            return self.defined(symbol)
        stub = self.stubs.get(symbol.name)
        if stub is None:
            entry = self.entry(symbol)
            self._align(8)
            stub = self.stubs[symbol.name] = len(self.image)
            self.image += _JUMP + (entry - stub - 6).to_bytes(4, "little", signed=True)
        return stub

    def rebase(self, symbol: _Symbol, place: int) -> int:
        self.rebases.append(place)
        return self.defined(symbol)


_Value = Callable[[_Linker, _Symbol, int], int]
_RULES: Mapping[int, tuple[int, _Value]] = {
    _ADDRESS: (8, lambda linker, symbol, place: linker.rebase(symbol, place)),  # R_X86_64_64
    2: (4, lambda linker, symbol, place: linker.defined(symbol) - place),  # R_X86_64_PC32
    4: (4, lambda linker, symbol, place: linker.callee(symbol) - place),  # R_X86_64_PLT32
    9: (4, lambda linker, symbol, place: linker.entry(symbol) - place),  # R_X86_64_GOTPCREL
    24: (8, lambda linker, symbol, place: linker.defined(symbol) - place),  # R_X86_64_PC64
    25: (8, lambda linker, symbol, place: linker.defined(symbol) - linker.origin),  # R_X86_64_GOTOFF64
    27: (8, lambda linker, symbol, place: linker.entry(symbol) - linker.origin),  # R_X86_64_GOT64
    29: (8, lambda linker, symbol, place: linker.origin - place),  # R_X86_64_GOTPC64
    41: (4, lambda linker, symbol, place: linker.entry(symbol) - place),  # R_X86_64_GOTPCRELX
    42: (4, lambda linker, symbol, place: linker.entry(symbol) - place),  # R_X86_64_REX_GOTPCRELX
}
"""Width in bytes and value, without the addend, of each kind of reference."""
