#!/usr/bin/env python3
"""Reads and changes PE files for the tests, independent of the program under test. Standard library only.

    pe.py sections FILE            name, file offset, virtual size, raw size of each section, one a line
    pe.py dump FILE DIR            each section's content (virtual size) as DIR/NAME without the dot
    pe.py flip FILE OFFSET         changes the lowest bit of one byte, in place
    pe.py flip FILE SECTION        the same in the middle of a section
    pe.py digests FILE             "WHAT BANK DIGEST" of each section's content and of what Authenticode covers ("image"),
                                   and "pkcs7 der HEX" of the first signature
    pe.py signed FILE NUMBER       "OFFSET what" for bytes that the Authenticode signature covers: one of every header
                                   field, and NUMBER of every section
"""

import hashlib
import struct
import sys
from pathlib import Path


def unpack(data, offset, form):
    return struct.unpack_from("<" + form, data, offset)


class Pe:
    """Offsets of what matters in a PE32+ file."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.head = file.read(1 << 16)
        (self.pe,) = unpack(self.head, 0x3C, "I")
        assert self.head[self.pe:self.pe + 4] == b"PE\0\0", f"{path}: no PE signature"
        count, = unpack(self.head, self.pe + 6, "H")
        optional_size, = unpack(self.head, self.pe + 20, "H")
        self.optional = self.pe + 24
        self.table = self.optional + optional_size
        self.sections = []
        for number in range(count):
            at = self.table + 40 * number
            name = self.head[at:at + 8].rstrip(b"\0").decode()
            virtual_size, address, raw_size, raw = unpack(self.head, at + 8, "IIII")
            self.sections.append((name, raw, virtual_size, raw_size, at))


# (offset, length, name) in the COFF header and in the optional header of PE32+.
COFF = [(0, 4, "signature"), (4, 2, "Machine"), (6, 2, "NumberOfSections"), (8, 4, "TimeDateStamp"),
        (12, 4, "PointerToSymbolTable"), (16, 4, "NumberOfSymbols"), (20, 2, "SizeOfOptionalHeader"),
        (22, 2, "Characteristics")]
OPTIONAL = [(0, 2, "Magic"), (2, 1, "MajorLinkerVersion"), (3, 1, "MinorLinkerVersion"), (4, 4, "SizeOfCode"),
            (8, 4, "SizeOfInitializedData"), (12, 4, "SizeOfUninitializedData"), (16, 4, "AddressOfEntryPoint"),
            (20, 4, "BaseOfCode"), (24, 8, "ImageBase"), (32, 4, "SectionAlignment"), (36, 4, "FileAlignment"),
            (40, 2, "MajorOperatingSystemVersion"), (42, 2, "MinorOperatingSystemVersion"), (44, 2, "MajorImageVersion"),
            (46, 2, "MinorImageVersion"), (48, 2, "MajorSubsystemVersion"), (50, 2, "MinorSubsystemVersion"),
            (52, 4, "Win32VersionValue"), (56, 4, "SizeOfImage"), (60, 4, "SizeOfHeaders"), (68, 2, "Subsystem"),
            (70, 2, "DllCharacteristics"), (72, 8, "SizeOfStackReserve"), (80, 8, "SizeOfStackCommit"),
            (88, 8, "SizeOfHeapReserve"), (96, 8, "SizeOfHeapCommit"), (104, 4, "LoaderFlags"),
            (108, 4, "NumberOfRvaAndSizes")]
SECTION = [(0, 8, "Name"), (8, 4, "VirtualSize"), (12, 4, "VirtualAddress"), (16, 4, "SizeOfRawData"),
           (20, 4, "PointerToRawData"), (24, 4, "PointerToRelocations"), (28, 4, "PointerToLinenumbers"),
           (32, 2, "NumberOfRelocations"), (34, 2, "NumberOfLinenumbers"), (36, 4, "Characteristics")]


def signed(pe, number):
    """Bytes that a signature covers: all but the checksum, the entry of the certificate table, and that table."""
    yield 0, "DOS e_magic"
    yield 0x3C, "DOS e_lfanew"
    yield 0x40, "DOS program"
    for offset, _, name in COFF:
        yield pe.pe + offset, f"COFF {name}"
    for offset, _, name in OPTIONAL:
        yield pe.optional + offset, f"optional header {name}"
    directories, = unpack(pe.head, pe.optional + 108, "I")
    for entry in range(directories):
        if entry != 4:
            yield pe.optional + 112 + 8 * entry, f"data directory {entry} address"
            yield pe.optional + 112 + 8 * entry + 4, f"data directory {entry} size"
    for name, _, _, _, at in pe.sections:
        for offset, _, field in SECTION:
            yield at + offset, f"header of {name}, {field}"
    after = pe.table + 40 * len(pe.sections)
    headers, = unpack(pe.head, pe.optional + 60, "I")
    if after < headers:
        yield after, "first byte after the section table"
        yield headers - 1, "last byte of the headers"
    for name, raw, virtual_size, raw_size, _ in pe.sections:
        if raw_size == 0:
            continue
        last = raw_size - 1
        for place in sorted({last * step // max(number - 1, 1) for step in range(number)} | {min(virtual_size, raw_size) - 1}):
            yield raw + place, f"{name} at byte {place} of {raw_size}"


def digests(path, pe):
    """What firmware and stub measure: (what, bank, digest)."""
    data = Path(path).read_bytes()
    certificates, size = unpack(data, pe.optional + 112 + 8 * 4, "II")
    end = certificates if size else len(data)
    covered = data[:pe.optional + 64] + data[pe.optional + 68:pe.optional + 144] + data[pe.optional + 152:end] + data[end + size:]
    parts = [("image", covered)]
    parts += [(name, data[raw:raw + min(virtual_size, raw_size)]) for name, raw, virtual_size, raw_size, _ in pe.sections]
    for what, content in parts:
        for bank in ["sha1", "sha256", "sha384", "sha512"]:
            yield what, bank, hashlib.new(bank, content).hexdigest()
    if size:
        length, = unpack(data, certificates, "I")
        yield "pkcs7", "der", data[certificates + 8:certificates + length].hex()


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def main():
    command, path, *rest = sys.argv[1:]
    pe = Pe(path)
    if command == "sections":
        for name, raw, virtual_size, raw_size, _ in pe.sections:
            print(name, raw, virtual_size, raw_size)
    elif command == "dump":
        out = Path(rest[0])
        out.mkdir(parents=True, exist_ok=True)
        with open(path, "rb") as file:
            for name, raw, virtual_size, raw_size, _ in pe.sections:
                file.seek(raw)
                (out / name.lstrip(".")).write_bytes(file.read(min(virtual_size, raw_size)))
    elif command == "flip" and rest[0].startswith("."):
        raw, size = next((raw, size) for name, raw, size, _, _ in pe.sections if name == rest[0])
        flip(path, raw + size // 2)
    elif command == "flip":
        flip(path, int(rest[0]))
    elif command == "digests":
        for words in digests(path, pe):
            print(*words)
    elif command == "signed":
        for offset, what in signed(pe, int(rest[0])):
            print(offset, what)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
