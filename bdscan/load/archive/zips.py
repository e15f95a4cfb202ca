"""A zip archive as its own bytes tell it: what it holds, and where its two directories disagree."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import PurePosixPath

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.danger import Danger
from bdscan.load.pickle.effects import quoted

_CODE = {".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".exe", ".sh", ".bat", ".ps1", ".cmd", ".jar", ".js", ".com"}
_MAX_ENTRIES = 100_000  # one per tensor; the largest published nets have a few thousand
_MAX_EXPANSION = 100  # deflate cannot do better than 1032:1, and weights hardly shrink at all
_MAX_DESCRIPTOR = 24  # the longest data descriptor that may stand between two members


@dataclass(frozen=True)
class Member:
    """One file in the archive."""

    name: str
    start: int  # its bytes in the file
    stop: int
    size: int  # unpacked
    method: int
    header: int  # where its local header begins
    info: zipfile.ZipInfo

    @property
    def stored(self) -> bool:
        return self.method == zipfile.ZIP_STORED


class Archive:
    """The members of a zip, without unpacking any."""

    def __init__(self, data: bytes | mmap) -> None:
        self.data = data
        self.dangers: list[Danger] = []
        self._directory = 0  # where it begins
        self.members = self._read()
        self._by_name = {member.name.lower(): member for member in reversed(self.members)}
        self.dangers += _name_dangers(self.members)
        self.dangers += _gap_dangers(self.members, self._directory, data)

    def _read(self) -> tuple[Member, ...]:
        try:
            with zipfile.ZipFile(_Window(self.data)) as archive:
                entries, self._directory = archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, IndexError, OSError, EOFError):
            raise Problem("it is a damaged or truncated zip archive", hint="fetch the file again") from None
        if len(entries) > _MAX_ENTRIES:
            raise Problem(f"its zip directory lists {len(entries)} members, more than any model has")
        return tuple(member for member in map(self._locate, entries) if member is not None)

    def _locate(self, info: zipfile.ZipInfo) -> Member | None:
        """The member where its local header says it is; a header that disagrees with the directory is a danger."""
        at, shown = info.header_offset, quoted(info.orig_filename)
        head = self.data[at : at + 30] if at >= 0 else b""
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            self._add_danger(f"the zip directory lists {shown} where there is nothing")
            return None
        flags, method, name_length, extra = struct.unpack("<6xHH16xHH", head)
        name = self.data[at + 30 : at + 30 + name_length]
        start = at + 30 + name_length + extra
        stated = name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        if stated != info.orig_filename or method != info.compress_type:
            self._add_danger(f"the local header of {shown} says something else than the zip directory")
        if start + info.compress_size > len(self.data):
            self._add_danger(f"the member {shown} lies beyond the end of the file")
            return None
        return Member(info.filename, start, start + info.compress_size, info.file_size, info.compress_type, at, info)

    def _add_danger(self, message: str) -> None:
        if len(self.dangers) < 20:
            self.dangers.append(Danger(Level.SUSPECT, message, "zip"))

    def find(self, name: str) -> Member | None:
        """torch looks members up without regard to case, and so must we."""
        return self._by_name.get(name.lower())

    @property
    def root(self) -> str:
        """The folder that everything lies in: torch takes it from the first member."""
        return self.members[0].name.partition("/")[0] if self.members else ""

    def read(self, member: Member, max_bytes: int) -> bytes:
        """The member's bytes, never more than `max_bytes` and never more than it declares."""
        if member.info.flag_bits & 1:
            raise Problem(f"its member {quoted(member.name)} is encrypted")
        if member.size > max_bytes:
            raise Problem(f"its member {quoted(member.name)} unpacks to {member.size:,} bytes, too many to look at")
        packed = self.data[member.start : member.stop]
        if member.stored:
            return packed
        if member.method != zipfile.ZIP_DEFLATED:
            raise Problem(f"its member {quoted(member.name)} is compressed in a way that torch cannot read")
        try:
            return zlib.decompressobj(-15).decompress(packed, member.size + 1)[: member.size]
        except zlib.error:
            raise Problem(f"its member {quoted(member.name)} is damaged", hint="fetch the file again") from None

    def head(self, member: Member) -> bytes:
        """The first four bytes, however large the rest would be."""
        if member.stored:
            return self.data[member.start : min(member.start + 4, member.stop)]
        if member.method != zipfile.ZIP_DEFLATED or member.info.flag_bits & 1:
            return b""
        try:
            return zlib.decompressobj(-15).decompress(self.data[member.start : min(member.start + 512, member.stop)], 4)
        except zlib.error:
            return b""


class _Window:
    """A read-only file over bytes, at its own position."""

    def __init__(self, data: bytes | mmap) -> None:
        self._data, self._at = data, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._data))[whence]
        if at < 0:
            raise OSError("before the start")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = len(self._data) if size is None or size < 0 else min(len(self._data), self._at + size)
        taken = self._data[self._at : max(stop, self._at)]
        self._at += len(taken)
        return taken


def _name_dangers(members: tuple[Member, ...]) -> Iterator[Danger]:
    earlier_names: set[str] = set()
    reported: set[str] = set()
    for member in members:
        shown = quoted(member.name)
        for problem in _name_problems(member, earlier_names):
            if problem not in reported:
                yield Danger(Level.SUSPECT, problem.format(shown), f"zip, {shown}")
            reported.add(problem)
        earlier_names.add(member.name.lower())


def _name_problems(member: Member, earlier_names: set[str]) -> Iterator[str]:
    parts = member.name.replace("\\", "/").split("/")
    if member.name.lower() in earlier_names:
        yield "the archive holds {} twice, and readers disagree on which one counts"
    if ".." in parts or parts[0] in ("", "~") or ":" in parts[0]:
        yield "the member {} would be unpacked outside the archive's folder"
    if stat.S_ISLNK(member.info.external_attr >> 16):
        yield "the member {} is a symbolic link"
    if member.info.flag_bits & 1:
        yield "the member {} is encrypted, so no scanner can look into it"
    if member.size > _MAX_EXPANSION * max(1, member.stop - member.start):
        yield "the member {} unpacks to more than a hundred times its size: a zip bomb"
    if PurePosixPath(member.name).suffix.lower() in _CODE and parts[1:2] != ["code"]:
        yield "the archive carries a program, {}"


def _gap_dangers(members: tuple[Member, ...], directory: int, data: bytes | mmap) -> Iterator[Danger]:
    """What stands before, between and behind the members."""
    at = 0
    for member in sorted(members, key=lambda member: member.header):
        if member.header < at:
            message = f"the member {quoted(member.name)} shares bytes with the one before it"
            yield Danger(Level.SUSPECT, message, f"zip, byte {member.header}")
            break
        if member.header - at > _MAX_DESCRIPTOR:
            message = f"{member.header - at:,} bytes belong to no member of the archive"
            yield Danger(Level.SUSPECT, message, f"zip, byte {at}")
        at = max(at, member.stop)
    if directory - at > _MAX_DESCRIPTOR:
        yield Danger(Level.SUSPECT, f"{directory - at:,} bytes belong to no member of the archive", f"zip, byte {at}")
    behind = len(data) - data.rfind(b"PK\x05\x06") - 22
    if behind > 0:
        message = f"{behind:,} bytes follow the end of the archive"
        yield Danger(Level.SUSPECT, message, f"zip, byte {len(data) - behind}")
