"""A zip archive as its readers have it: what it holds, and where they would see different things."""

from __future__ import annotations

import stat
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import MADV_DONTNEED, PAGESIZE, mmap

from bdscan.facts.deadline import check_time
from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import zip_directory
from bdscan.load.archive.zip_directory import Directory, Entry, Refused
from bdscan.load.danger import Danger
from bdscan.load.pickle.effects import quoted

STORED, DEFLATED = 0, 8
LOCAL = b"PK\3\4"
_CODE = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".exe", ".sh", ".bat", ".ps1", ".cmd", ".jar", ".js", ".com")
_MAX_EXPANSION = 100  # deflate cannot do better than 1032:1, and weights hardly shrink at all
_SMALL = 1 << 20  # bytes that may be unpacked from anything
_MAX_NAME = 511  # bytes of a name that torch's list of members shows
_PADDING = 8 << 10  # bytes; what a file may be filled up with zeros to a whole block
_CHUNK = 16 << 20  # bytes between two looks at the clock
_ENCRYPTED, _DESCRIPTOR = 1, 8
_KNOWN_FLAGS = 0x0E | 0x800  # the level of compression, a data descriptor, a name in UTF-8
_MEANINGFUL_FLAGS = 0x1 | 0x8 | 0x20 | 0x40  # that change how the bytes are read
_UNKNOWN = 0xFFFFFFFF
_MAX_DANGERS = 20
_DISAGREE = "the local header of {} says something else than the zip directory, and readers differ in whom they believe"


@dataclass(frozen=True)
class Member:
    """One file in the archive."""

    name: str
    entry: Entry
    start: int  # its bytes in the file
    stop: int
    described: bool  # whether its local header says that its sizes follow its bytes

    @property
    def size(self) -> int:
        """Unpacked."""
        return self.entry.size

    @property
    def stored(self) -> bool:
        return self.entry.method == STORED

    @property
    def readable(self) -> bool:
        """Whether torch's reader would take it."""
        return self.entry.method in (STORED, DEFLATED) and not self.entry.flags & (0x1 | 0x20 | 0x40)

    @property
    def empty(self) -> bool:
        return self.entry.packed == 0


class Archive:
    """The members of a zip, without unpacking any; a `Problem` where no reader opens it."""

    def __init__(self, data: bytes | mmap) -> None:
        self.data = data
        self.dangers: list[Danger] = []
        self.disputed = ""  # why there is more than one way to read it
        torch = _reading(data, zip_directory.by_torch, zip_directory.torch_entries)
        python = _reading(data, zip_directory.by_python, zip_directory.python_entries)
        directory, entries = torch or python or _damaged()
        self.members = tuple(self._located(entries))
        self.others: tuple[Member, ...] = ()  # what only the other reader sees
        if torch and python and torch[1] != python[1]:
            self._dispute("torch's reader and Python's find different members in the archive", "zip directory")
            seen = set(entries)
            self.others = tuple(self._located([entry for entry in python[1] if entry not in seen]))
        elif not torch or not python:
            refusing, opening = ("Python's", "torch's") if torch else ("torch's", "Python's")
            self._add(Level.SUSPECT, f"{refusing} reader refuses the zip directory and {opening} reads it", "zip")
        self._by_name: dict[bytes, list[Member]] = defaultdict(list)
        for member in self.members:
            self._by_name[member.entry.name.lower()].append(member)
        ends = directory.end + 22 + int.from_bytes(data[directory.end + 20 : directory.end + 22], "little")
        # Otherwise it most likely stands in a longer file as a value; only Python's reader looks for it even there.
        self.is_whole_file = torch is not None or ends == len(data)
        self._check_end(directory)
        self._check_twins()
        self._check_names()
        self._check_gaps(directory.start)

    def _located(self, entries: list[Entry]) -> Iterator[Member]:
        for entry in entries:
            check_time()
            if member := self._locate(entry):
                yield member

    def _locate(self, entry: Entry) -> Member | None:
        """The member where its local header says it is; a header that disagrees with the directory is a danger."""
        at, name = entry.header, entry.name.decode("utf-8", "surrogateescape")
        head = self.data[at : at + 30] if at >= 0 else b""
        if len(head) < 30 or head[:4] != LOCAL:
            self._add(Level.SUSPECT, f"the zip directory lists {quoted(name)} where there is nothing", "zip")
            return None
        flags, method, crc, packed, size, name_length, extra_length = struct.unpack("<6xHH4xIIIHH", head)
        begin = at + 30 + name_length
        start = begin + extra_length
        if start + entry.packed > len(self.data):
            self._add(Level.SUSPECT, f"the member {quoted(name)} lies beyond the end of the file", "zip")
            return None
        same = self.data[at + 30 : begin] == entry.name and method == entry.method
        same = same and not (flags ^ entry.flags) & _MEANINGFUL_FLAGS
        extra = self.data[begin:start]
        figures = (packed, entry.packed), (size, entry.size), (crc, entry.crc)
        if not same or not all(_agree(stated, true, flags, extra) for stated, true in figures):
            self._dispute(_DISAGREE.format(quoted(name)), f"byte {at}")
        elif entry.method == STORED and entry.packed != entry.size and not entry.flags & _ENCRYPTED:
            self._dispute(f"the member {quoted(name)} is stored, but two sizes are given for it", f"byte {at}")
        elif entry.packed and (entry.name.endswith(b"/") or entry.attributes & 0x10):
            self._dispute(
                f"the member {quoted(name)} is a folder to torch's reader and a file to Python's", f"byte {at}"
            )
        return Member(name, entry, start, start + entry.packed, bool(flags & _DESCRIPTOR))

    def _dispute(self, message: str, where: str) -> None:
        self.disputed = self.disputed or message
        self._add(Level.BACKDOOR, message, f"zip, {where}")

    def _add(self, level: Level, message: str, where: str) -> None:
        if len(self.dangers) < _MAX_DANGERS or level == Level.BACKDOOR > max(each.level for each in self.dangers):
            self.dangers.append(Danger(level, message, where))

    # -- members -----------------------------------------------------------

    def all_named(self, name: str) -> list[Member]:
        """torch looks members up without regard to case, and so must we."""
        return self._by_name.get(name.encode("utf-8", "surrogateescape").lower(), [])

    def find(self, name: str) -> Member | None:
        """The one member of that name; a `Problem` where there are several."""
        named = self.all_named(name)
        if len(named) > 1:
            raise Problem(f"it holds {quoted(name)} more than once, and readers disagree on which one counts")
        return named[0] if named else None

    def require_one_reading(self) -> None:
        """Before anything in it is believed."""
        if self.disputed:
            raise Problem(f"there is more than one way to read it: {self.disputed}")

    @property
    def root(self) -> str:
        """The folder that everything lies in: torch takes it from the first member."""
        return self.members[0].name.partition("/")[0] if self.members else ""

    def read(self, member: Member, max_bytes: int) -> bytes:
        """The member's bytes, never more than `max_bytes` and exactly as many as it declares."""
        if not member.readable:
            raise Problem(f"its member {quoted(member.name)} is encrypted or packed in a way that torch cannot read")
        if member.size > max_bytes:
            raise Problem(f"its member {quoted(member.name)} unpacks to {member.size:,} bytes, too many to look at")
        packed = self.data[member.start : member.stop]
        if member.stored:
            return packed
        inflate = zlib.decompressobj(-15)
        try:
            unpacked = inflate.decompress(packed, member.size + 1)
        except zlib.error:
            unpacked = b""
        if len(unpacked) != member.size or not inflate.eof or inflate.unused_data:
            raise Problem(f"its member {quoted(member.name)} is damaged", hint="fetch the file again")
        return unpacked

    def has_right_checksum(self, member: Member, unpacked: bytes | None = None) -> bool:
        """Of the bytes as they are unpacked; those of a stored member are looked at where they lie."""
        if unpacked is not None:
            return zlib.crc32(unpacked) == member.entry.crc
        crc = 0
        with memoryview(self.data) as view:
            for at in range(member.start, member.stop, _CHUNK):
                check_time()
                with view[at : min(at + _CHUNK, member.stop)] as chunk:
                    crc = zlib.crc32(chunk, crc)
                self._let_go(at)
        return crc == member.entry.crc

    def _let_go(self, at: int) -> None:
        """Of the pages that have been looked at, so that a large file does not fill the memory."""
        if sys.platform == "linux" and isinstance(self.data, mmap):
            start = at - at % PAGESIZE
            self.data.madvise(MADV_DONTNEED, start, min(_CHUNK, len(self.data) - start))

    # -- what no writer does -----------------------------------------------

    def _check_end(self, directory: Directory) -> None:
        """The end record: its own figures, what follows it, and another one that could be meant."""
        end = directory.end
        figures = struct.unpack("<8xHHII", self.data[end : end + 20])
        stop = end
        if directory.record >= 0:
            stop = end - 76
            wide = struct.unpack("<24xQQQQ", self.data[directory.record : directory.record + 56])
            if stop != directory.record:
                self._dispute("the zip64 locator points away from the end of the archive", f"byte {end - 20}")
            elif any(
                short != long for short, long in zip(figures, wide, strict=True) if short not in (0xFFFF, _UNKNOWN)
            ):
                self._dispute("the two end records of the archive tell different directories", f"byte {end}")
        self._check_stray(directory.start + directory.size, stop)
        for at in _places(self.data, zip_directory.END, max(0, end - (1 << 16)), end):
            if at + 22 + int.from_bytes(self.data[at + 20 : at + 22], "little") == len(self.data):
                self._dispute("the archive has two end records", f"byte {at}")
        comment = int.from_bytes(self.data[end + 20 : end + 22], "little")
        self._check_tail(end + 22, comment)

    def _check_tail(self, start: int, comment: int) -> None:
        behind = len(self.data) - start
        if behind == 0:
            return
        if behind == comment:
            self._add(Level.SUSPECT, f"the archive has a comment of {comment:,} bytes, as torch never writes", "zip")
        else:
            self.dangers.append(trailing(self.data, start, len(self.data), "the end of the archive", Level.BACKDOOR))

    def _check_stray(self, start: int, stop: int) -> None:
        if start != stop:
            shared = "are used twice" if start > stop else "belong to no member of the archive"
            self._add(Level.BACKDOOR, f"{abs(stop - start):,} bytes {shared}", f"zip, byte {min(start, stop)}")

    def _check_gaps(self, directory: int) -> None:
        """What stands before, between and behind the members."""
        at, last = 0, None
        for member in sorted(self.members, key=lambda member: member.entry.header):
            at = self._check_gap(at, member.entry.header, last)
            if member.entry.header < at:
                self._dispute(f"the member {quoted(member.name)} shares bytes with the one before it", f"byte {at}")
                return
            at, last = member.stop, member
        self._check_stray(self._check_gap(at, directory, last), directory)

    def _check_gap(self, at: int, until: int, before: Member | None) -> int:
        """Up to where the bytes belong to the member before; a data descriptor must repeat what the directory says."""
        if before is not None and before.described:
            length = _descriptor_length(self.data, at, before.entry)
            if not length and not before.empty:
                message = f"the sizes that ought to follow the member {quoted(before.name)} are missing or wrong"
                self._add(Level.SUSPECT, message, f"zip, byte {at}")
            at += length
        if at < until:
            self._check_stray(at, until)
            return until
        return at

    def _check_names(self) -> None:
        reported: set[str] = set()
        for member in (*self.members, *self.others):
            check_time()
            for broken, problem in _entry_problems(member):
                if broken and problem not in reported:
                    shown = quoted(member.name)
                    self._add(Level.SUSPECT, problem.format(shown), f"zip, {shown}")
                    reported.add(problem)

    def _check_twins(self) -> None:
        for twins in self._by_name.values():
            if len(twins) == 1:
                continue
            shown = quoted(twins[0].name)
            if len({member.entry.name for member in twins}) < len(twins):
                message = f"the archive holds {shown} twice, and readers disagree on which one counts"
                self._add(Level.BACKDOOR, message, f"zip, {shown}")
            else:
                message = f"the archive holds {shown} in capitals and in small letters, which are the same to torch"
                self._add(Level.SUSPECT, message, f"zip, {shown}")


def _entry_problems(member: Member) -> Iterator[tuple[bool, str]]:
    parts = member.name.replace("\\", "/").split("/")
    outside = ".." in parts or parts[0] in ("", "~") or ":" in parts[0]
    yield outside, "the member {} would be unpacked outside the archive's folder"
    yield "\\" in member.name, "the member {} lies in a folder on Windows only"
    yield not member.name.isprintable(), "the name of the member {} cannot be printed"
    yield len(member.entry.name) > _MAX_NAME, "the name of the member {} is longer than readers show"
    yield stat.S_ISLNK(member.entry.attributes >> 16), "the member {} is a symbolic link"
    yield member.entry.method not in (STORED, DEFLATED), "the member {} is compressed in a way that torch cannot read"
    bomb = member.size > max(_SMALL, _MAX_EXPANSION * member.entry.packed)
    yield bomb, "the member {} unpacks to more than a hundred times its size: a zip bomb"
    program = parts[-1].lower().endswith(_CODE) and parts[1:2] != ["code"]
    yield program, "the archive carries a program, {}"
    odd = bool(member.entry.flags & ~_KNOWN_FLAGS)
    yield odd, "the member {} is marked as encrypted or patched, and readers differ in what they make of it"


def trailing(data: bytes | mmap, start: int, stop: int, what: str, level: Level = Level.SUSPECT) -> Danger:
    """Bytes that follow what a reader reads: harmless where they only fill up the block."""
    if stop - start <= _PADDING and not data[start:stop].strip(b"\0"):
        level = Level.NOTE
    return Danger(level, f"{stop - start:,} bytes follow {what}", f"byte {start}")


def _reading(
    data: bytes | mmap,
    find: Callable[[bytes | mmap], Directory],
    listed: Callable[[bytes | mmap, Directory], list[Entry]],
) -> tuple[Directory, list[Entry]] | None:
    try:
        directory = find(data)
        return directory, listed(data, directory)
    except Refused:
        return None


def _damaged() -> tuple[Directory, list[Entry]]:
    raise Problem("it is a damaged or truncated zip archive", hint="fetch the file again")


def _agree(stated: int, true: int, flags: int, extra: bytes) -> bool:
    """A local header may leave a figure to the data descriptor or to its zip64 extra field."""
    if stated == _UNKNOWN != true:
        return struct.pack("<Q", true) in extra or bool(flags & _DESCRIPTOR)
    return stated == true or (stated == 0 and bool(flags & _DESCRIPTOR))


def _descriptor_length(data: bytes | mmap, at: int, entry: Entry) -> int:
    """Its bytes, where it is there and right: with or without its mark, with short or long sizes."""
    for mark in (b"PK\7\x08", b""):
        for form in ("<III", "<IQQ"):
            if form == "<III" and max(entry.packed, entry.size) > _UNKNOWN:
                continue
            expected = mark + struct.pack(form, entry.crc, entry.packed, entry.size)
            if data[at : at + len(expected)] == expected:
                return len(expected)
    return 0


def _places(data: bytes | mmap, mark: bytes, start: int, stop: int) -> Iterator[int]:
    at = data.find(mark, start, stop)
    while at >= 0:
        check_time()
        yield at
        at = data.find(mark, at + 1, stop)
