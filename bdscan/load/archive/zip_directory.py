"""Where the directory of a zip lies and what it lists, as torch's reader (miniz) has it and as Python's `zipfile` does.

|                  | torch (miniz 3.0.2 in PyTorchStreamReader)       | Python (`zipfile`)                             |
|------------------|--------------------------------------------------|------------------------------------------------|
| end record       | the last whole one, within 69,584 bytes          | the last one, within 65,558 bytes              |
| zip64 record     | where the locator before the end record points   | 76 bytes before the end record                 |
| its figures      | count whenever the record is there               | the same                                       |
| directory        | at the stated offset                             | directly before the end, whatever is stated    |
| members          | as many as are stated                            | until the stated size is used up               |
| header offsets   | as stated                                        | moved by stated minus actual directory offset  |
| zip64 extra      | the first one, if a figure is 0xffffffff         | every one                                      |
| name             | all bytes; A-Z equal a-z; any of several equals  | ends at NUL; case counts; the last of equals   |
| folder           | of the first member; all lookups start there     | none                                           |
| data             | behind the local header's own two lengths        | the same, if its name is the directory's       |
| sizes            | the directory's; what is stored may be unequal   | the directory's                                |
| checksum         | ignored                                          | must be right                                  |
| encryption flags | refused                                          | refused without a password                     |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem

END, LOCATOR, RECORD, ENTRY = b"PK\5\6", b"PK\6\7", b"PK\6\6", b"PK\1\2"
_END_SIZE, _LOCATOR_SIZE, _RECORD_SIZE, _ENTRY_SIZE = 22, 20, 56, 46
_TORCH_WINDOW = 4096 + 16 * 4093  # miniz steps back by 4,093 until a comment of 65,535 bytes lies behind it
_PYTHON_WINDOW = (1 << 16) + _END_SIZE
_UNKNOWN = 0xFFFFFFFF  # the true figure stands in the zip64 extra field
_MAX_ENTRIES = 20_000  # one per tensor; the largest published nets have a few thousand
_MAX_DIRECTORY = 32 << 20  # bytes; twenty thousand members with long names need a tenth of it
_NEWEST_VERSION = 63  # `zipfile` refuses what needs more
_MASKED = 1 << 13  # flag: the local headers are blanked out


class Refused(Exception):
    """The reader in question does not open this."""


@dataclass(frozen=True)
class Directory:
    """One reader's way to the directory."""

    start: int
    size: int
    count: int  # members; -1: as many as there are
    shift: int  # is added to every header offset
    end: int  # where the end record begins
    record: int  # where the zip64 record begins; -1: there is none


class Entry(NamedTuple):
    """One member as the directory describes it."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int  # where its local header begins
    attributes: int


class _Raw(NamedTuple):
    """The fixed fields of a directory entry, in its order, then what follows them."""

    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    attributes: int
    header: int
    name: bytes
    extra: bytes


def by_torch(data: bytes | mmap) -> Directory:
    """As mz_zip_reader_read_central_dir finds it."""
    at = data.rfind(END, max(0, len(data) - _TORCH_WINDOW), max(0, len(data) - _END_SIZE + 4))
    if at < 0:
        raise Refused
    disk, first_disk, here, count, size, start = struct.unpack("<4xHHHHII2x", data[at : at + _END_SIZE])
    record = _pointed_to(data, at)
    if record >= 0:
        figures = struct.unpack("<4xQ4xIIQQQQ", data[record : record + _RECORD_SIZE])
        length, disk, first_disk, here, count, size, start = figures
        disks = int.from_bytes(data[at - 4 : at], "little")
        if length < _RECORD_SIZE - 12 or disks != 1 or size > _UNKNOWN:
            raise Refused
    if here != count or not (disk == first_disk == 0 or disk == first_disk == 1):
        raise Refused
    if size < count * _ENTRY_SIZE or start + size > len(data):
        raise Refused
    return Directory(start, size, count, 0, at, record)


def _pointed_to(data: bytes | mmap, end: int) -> int:
    """The zip64 record that the locator points to."""
    if end < _LOCATOR_SIZE + _RECORD_SIZE or data[end - 20 : end - 16] != LOCATOR:
        return -1
    record = int.from_bytes(data[end - 12 : end - 4], "little")
    if record > len(data) - _RECORD_SIZE:
        raise Refused
    return record if data[record : record + 4] == RECORD else -1


def by_python(data: bytes | mmap) -> Directory:
    """As zipfile._EndRecData and ZipFile._RealGetContents find it."""
    at = len(data) - _END_SIZE
    if data[at : at + 4] != END or data[-2:] != b"\0\0":
        at = data.rfind(END, max(0, len(data) - _PYTHON_WINDOW))
    if at < 0 or len(data) - at < _END_SIZE:
        raise Refused
    size, stated = struct.unpack("<12xII2x", data[at : at + _END_SIZE])
    record, stop = -1, at
    if at >= _LOCATOR_SIZE and data[at - 20 : at - 16] == LOCATOR:
        disk, disks = struct.unpack("<4xI8xI", data[at - 20 : at])
        if disk != 0 or disks > 1 or at < _LOCATOR_SIZE + _RECORD_SIZE:
            raise Refused
        if data[at - 76 : at - 72] == RECORD:
            record = stop = at - 76
            size, stated = struct.unpack("<40xQQ", data[record : record + _RECORD_SIZE])
    start = stop - size
    if start < 0:
        raise Refused
    return Directory(start, size, -1, start - stated, at, record)


def torch_entries(data: bytes | mmap, directory: Directory) -> list[Entry]:
    """What torch's reader takes from the directory."""
    raws = _raws(data, directory)
    entries = [_torch_entry(raw, len(data)) for _, raw in zip(range(directory.count), raws, strict=False)]
    if len(entries) < directory.count:
        raise Refused
    return entries


def python_entries(data: bytes | mmap, directory: Directory) -> list[Entry]:
    """What `zipfile` takes from it."""
    return [_python_entry(raw, directory.shift) for raw in _raws(data, directory)]


def _raws(data: bytes | mmap, directory: Directory) -> Iterator[_Raw]:
    if directory.size > _MAX_DIRECTORY:
        raise Problem(f"its zip directory takes {directory.size:,} bytes, more than any model needs")
    block = data[directory.start : directory.start + directory.size]
    at = count = 0
    while at < directory.size and count != directory.count:
        check_time()
        if count >= _MAX_ENTRIES:
            raise Problem(f"its zip directory lists more than {_MAX_ENTRIES:,} members, more than any model has")
        if block[at : at + 4] != ENTRY or at + _ENTRY_SIZE > len(block):
            raise Refused
        fields = struct.unpack_from("<6xHHHHHIIIHHHH2xII", block, at)
        name, extra, comment = fields[8:11]
        begin = at + _ENTRY_SIZE
        yield _Raw._make((*fields, block[begin : begin + name], block[begin + name : begin + name + extra]))
        at, count = begin + name + extra + comment, count + 1


def _torch_entry(raw: _Raw, file_size: int) -> Entry:
    size, packed, header = raw.size, raw.packed, raw.header
    if raw.extra and _UNKNOWN in (size, packed, header):
        wide = next((body for kind, body in _extra_fields(raw.extra) if kind == 1), None)
        if wide is not None:
            size, packed, header = _widened(wide, size, packed, header)
    unequal = raw.method == 0 and raw.time == 0 and size != packed
    if _UNKNOWN not in (packed, size) and (unequal or (size and not packed)):
        raise Refused
    if packed != _UNKNOWN and header + 30 + packed > file_size:
        raise Refused
    if raw.flags & _MASKED or raw.disk not in (0, 1):
        raise Refused
    return Entry(raw.name, raw.flags, raw.method, raw.crc, packed, size, header, raw.attributes)


def _python_entry(raw: _Raw, shift: int) -> Entry:
    size, packed, header = raw.size, raw.packed, raw.header
    for kind, body in _extra_fields(raw.extra):
        if kind == 1:
            size, packed, header = _widened(body, size, packed, header)
    if raw.needs > _NEWEST_VERSION or (raw.flags & 0x800 and not _is_text(raw.name)):
        raise Refused
    name = raw.name.partition(b"\0")[0]
    return Entry(name, raw.flags, raw.method, raw.crc, packed, size, header + shift, raw.attributes)


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Both readers refuse a field that is longer than the rest."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if length + 4 > len(extra):
            raise Refused
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]


def _widened(wide: bytes, *figures: int) -> list[int]:
    """Those that are unknown, from the zip64 extra field, which holds just them."""
    found = []
    for figure in figures:
        if figure == _UNKNOWN:
            if len(wide) < 8:
                raise Refused
            figure, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(figure)
    return found


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
