"""Looks for everything that a loader would run: in each member, whatever its name, and in what is packed into it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from mmap import mmap

from bdscan.facts.deadline import check_time
from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import packed, zip_directory
from bdscan.load.archive.zips import LOCAL, Archive, Member
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import dangers, nested_bytes
from bdscan.load.pickle.opcodes import MAX_STEPS, follow_one
from bdscan.load.pickle.records import DTYPES, GlobalName, PickleTrace

_MAX_DEPTH = 8  # archives in archives; nobody packs a model twice
_ALWAYS_UNPACKED = 64 << 20  # bytes, beside what the file's own size allows
_MAX_EXPANSION = 20  # weights hardly compress
_MAX_STACKED = 10_000  # pickles one after another
_MAX_TOLD = 50  # dangers; a file of ten thousand bad members need not be listed whole
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".debug_pkl", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
_PROGRAMS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe\0\0\0")  # Linux, macOS
_HEAD = 4096
TAIL = 70_000  # bytes from the end in which the end record of a zip may lie


@dataclass(frozen=True)
class Place:
    """A part of some bytes that a loader could take for a file."""

    data: bytes | mmap
    start: int
    stop: int
    where: str
    depth: int = 0
    torchscript: bool = False  # whether it lies in a TorchScript archive, where `__torch__.` names are no Python
    numbers: bool = False  # whether it ought to be a tensor: what looks like a pickle there is most likely none

    @property
    def head(self) -> bytes:
        return self.data[self.start : min(self.start + _HEAD, self.stop)]

    def inside(self, data: bytes | mmap, start: int, stop: int) -> Place:
        """What is packed into it."""
        return Place(data, start, stop, self.where, self.depth + 1)

    def named(self, name: str) -> str:
        """Where a member of that name lies, in text that is safe to show."""
        shown = ascii(name)[1:-1]
        return f"{self.where}: {shown}" if self.where else shown


class Search:
    """Follows each pickle in a file, and in all that lies inside it, within bounds of time and memory."""

    def __init__(self, size: int) -> None:
        self.dangers_found: list[Danger] = []
        self.unread: dict[str, None] = {}
        self.pickles = 0
        self.firsts: dict[int, PickleTrace] = {}  # header of a member of the outermost archive -> its first pickle
        self._steps = MAX_STEPS
        self._free = size + _ALWAYS_UNPACKED  # bytes that may be unpacked at a time
        self._left = _MAX_EXPANSION * size + _ALWAYS_UNPACKED  # and one after another

    def add(self, *found: Danger) -> None:
        """Dangers; the gravest are told however many there are."""
        for danger in found:
            if len(self.dangers_found) < _MAX_TOLD or danger.level == Level.BACKDOOR:
                self.dangers_found.append(danger)

    def skip(self, what: str, where: str) -> None:
        """Something that a loader might use is not looked at."""
        if len(self.unread) < _MAX_TOLD:
            self.unread[f"{what} ({where})" if where else what] = None

    def result(self, form: str) -> FileExamination:
        """All that was found."""
        return FileExamination(form, tuple(self.dangers_found), self.pickles, tuple(self.unread))

    @contextmanager
    def _holding(self, size: int) -> Iterator[bool]:
        """Whether so many bytes may be unpacked, and kept while the block lasts."""
        allowed = size <= min(self._free, self._left)
        taken = size if allowed else 0
        self._free -= taken
        self._left -= taken
        yield allowed
        self._free += taken

    # -- archives ----------------------------------------------------------

    def archive(self, archive: Archive, place: Place, *, embedded: bool = False) -> None:
        """Every member that any reader finds, and what is odd about the zip, unless it is a value in another file."""
        self.add(*() if embedded else archive.dangers)
        script = any(member.name == f"{archive.root}/constants.pkl" for member in archive.members)
        tensors = re.compile(rf"{re.escape(archive.root)}/(data|constants)/(\d+|weights/weight_\d+)", re.IGNORECASE)
        checksums, followed = _Checksums(), set[tuple[int, int]]()
        for member in (*archive.members, *archive.others):
            check_time()
            span = member.start, member.stop
            if member.empty or span in followed:  # ten thousand members may share their bytes
                continue
            followed.add(span)
            numbers = bool(tensors.fullmatch(member.name))
            where = place.named(member.name)
            self._member(archive, member, Place(archive.data, *span, where, place.depth, script, numbers), checksums)
        self.add(*checksums.dangers())

    def _member(self, archive: Archive, member: Member, place: Place, checksums: _Checksums) -> None:
        if not member.readable:
            self.skip("a member that is encrypted or packed in an unusual way is not looked into", place.where)
            return
        if member.stored:
            checksums.note(member.entry.crc, archive.has_right_checksum(member), place.where)
            self._file(member, place)
            return
        with self._holding(member.size) as allowed:
            if not allowed:
                self.skip("it unpacks to more than is looked at", place.where)
                return
            try:
                unpacked = archive.read(member, member.size)
            except Problem:  # miniz takes what zlib refuses, and torch asks neither it nor the checksum
                message = "it cannot be unpacked by the rules, and torch's reader may find something else in it"
                self.add(Danger(Level.BACKDOOR, message, place.where))
                return
            checksums.note(member.entry.crc, archive.has_right_checksum(member, unpacked), place.where)
            self._file(member, replace(place, data=unpacked, start=0, stop=len(unpacked)))

    def _file(self, member: Member, place: Place) -> None:
        named = not place.numbers and member.name.lower().endswith(_PICKLE_SUFFIXES)
        first = self.content(place, expected=named)
        if place.depth == 0 and first is not None:
            self.firsts[member.entry.header] = first

    def zip(self, place: Place) -> bool:
        """Whether a zip ends there; if so, all in it is followed."""
        if place.depth >= _MAX_DEPTH:
            self.skip("archives are packed into archives deeper than is looked at", place.where)
            return False
        whole = place.start == 0 and place.stop == len(place.data)
        with self._holding(0 if whole else place.stop - place.start) as allowed:
            if not allowed:
                self.skip("an archive in it is too large to be looked into", place.where)
                return False
            data = place.data if whole else place.data[place.start : place.stop]
            try:
                archive = Archive(data)
            except Problem as problem:
                if place.head.startswith(LOCAL) and not place.numbers:
                    self.skip(problem.message, place.where)
                return False
            self.archive(archive, place.inside(data, 0, len(data)), embedded=not archive.is_whole_file)
        return True

    def tar(self, place: Place) -> list[packed.TarMember]:
        """The members of a tar, all followed."""
        members: list[packed.TarMember] = []
        try:
            for member in packed.tar_members(place.data, place.start, place.stop):
                members.append(member)
                if not member.own_bytes:
                    self.skip("a link or a file with holes in it is not looked into", place.named(member.name))
                    continue
                inside = replace(place.inside(place.data, member.start, member.stop), where=place.named(member.name))
                if member.name not in ("storages", "tensors") or not self._oldest_part(inside):
                    self.content(inside)
        except Problem as problem:
            self.skip(problem.message, place.where)
        return members

    def stream(self, place: Place) -> str:
        """What kind of compressed stream it is, if it is one; what is in it is followed."""
        kind = packed.stream(place.head)
        if kind is None:
            return ""
        limit = max(0, min(self._free, self._left))
        try:
            data = packed.unpacked(place.data, place.start, place.stop, kind[1], limit)
        except Problem as problem:
            self.skip(f"the {kind[0]} in it is not looked at: {problem.message}", place.where)
            return kind[0]
        if data is None:
            return ""
        with self._holding(len(data)):
            self.content(place.inside(data, 0, len(data)))
        return kind[0]

    # -- one thing ---------------------------------------------------------

    def content(self, place: Place, *, expected: bool = False) -> PickleTrace | None:
        """Whatever it is; the first pickle, where it holds one. `expected`: its name says that it is a pickle."""
        if place.depth > _MAX_DEPTH:
            self.skip("archives are packed into archives deeper than is looked at", place.where)
            return None
        head = place.head
        self._note_program(place, head)
        tail = (
            place.data.rfind(zip_directory.END, max(place.start, place.stop - TAIL), place.stop)
            if not place.numbers
            else -1
        )
        if (head.startswith(LOCAL) or tail >= 0) and self.zip(place) and head.startswith(LOCAL):
            return None
        if packed.is_tar(head) and not place.numbers:
            self.tar(place)
        self.stream(place)
        if head.startswith(packed.NUMPY):
            begin = packed.numpy_objects(place.data, place.start, place.stop)
            if begin is not None:
                self.pickle(replace(place, start=begin))
            return None
        return self._pickled(place, head, expected)

    def _note_program(self, place: Place, head: bytes) -> None:
        windows = head[:2] == b"MZ" and head[int.from_bytes(head[60:64], "little") :][:4] == b"PE\0\0"
        if windows or head.startswith(_PROGRAMS):
            self.add(Danger(Level.SUSPECT, "it carries a program", place.where))
        for magic, what in packed.CLOSED:
            if head.startswith(magic):
                self.skip(f"{what} in it cannot be looked into", place.where)

    def _pickled(self, place: Place, head: bytes, expected: bool) -> PickleTrace | None:
        if legacy.is_legacy(head):
            return self.legacy(place).traces[0]
        if expected or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and not place.numbers):
            return self.pickle(place)
        return self._guess(place)

    def legacy(self, place: Place) -> legacy.LegacyFile:
        """The five pickles of PyTorch's old format, and whatever follows its last tensor."""
        parts = legacy.split(place.data, place.start, place.stop)
        for number, trace in enumerate(parts.traces, 1):
            self.trace(trace, f"{place.where}, pickle {number}" if place.where else f"pickle {number}", place)
        if not parts.problem and parts.end < place.stop:
            for trace in self.stacked(replace(place, start=parts.end)):
                if not trace.broken or trace.names:
                    self.trace(
                        trace, f"{place.where}, " * bool(place.where) + f"the pickle at byte {trace.start}", place
                    )
        return parts

    def pickle(self, place: Place) -> PickleTrace | None:
        """Pickles one after another; one that breaks off is suspicious."""
        first = None
        for trace in self.stacked(place):
            first = first or trace
            self.trace(trace, place.where, place)
            if trace.broken:
                self.add(Danger(Level.SUSPECT, f"a pickle breaks off: {trace.broken}", place.where))
        return first

    def _guess(self, place: Place) -> PickleTrace | None:
        """Bytes that nothing says are a pickle: only what works as one, and does something, is told."""
        first = None
        for trace in self.stacked(place):
            if nested_bytes(trace):
                self.trace(trace, place.where, place)
                continue
            found = dangers(trace, place.where, torchscript=place.torchscript)
            grave = [danger for danger in found if danger.level > Level.NOTE]
            named = any(re.fullmatch(r"[A-Za-z_][\w.]+", name.module) for name in trace.names)
            if named and grave and (not trace.broken or any(danger.level == Level.BACKDOOR for danger in grave)):
                first = first or trace
                self.trace(trace, place.where, place)
        return first

    def stacked(self, place: Place) -> Iterator[PickleTrace]:
        """One after another, until one breaks off or only what fills up a block is left."""
        data, start, stop = place.data, place.start, place.stop
        for _ in range(_MAX_STACKED):
            check_time()
            if start >= stop or not any(data[start : min(start + 64, stop)]):
                return
            if self._steps <= 0:
                break
            trace = follow_one(data, start, stop, self._steps)
            self._steps -= trace.steps
            yield trace
            if trace.broken:
                return
            start = trace.end
        self.skip(
            "its pickles are too long or too many to be followed to their end",
            f"{place.where}, byte {start}".lstrip(", "),
        )

    def trace(self, trace: PickleTrace, where: str, place: Place) -> None:
        """One pickle that has been followed, and the files that it packs into itself."""
        self.pickles += 1
        self.add(*dangers(trace, where, torchscript=place.torchscript))
        nested = nested_bytes(trace)
        for data in nested:
            check_time()
            if self._steps <= 0:
                self.skip("it packs more pickles into pickles than can be followed", where)
                return
            inside = place.inside(data, 0, len(data))
            self.content(replace(inside, where=f"{where}, a file packed into it"), expected=True)
        followed = set(map(id, nested))
        for data in trace.packed if place.depth < _MAX_DEPTH else ():
            if id(data) not in followed:
                inside = place.inside(data, 0, len(data))
                self._guess(replace(inside, where=f"{where}, a pickle among its values"))

    # -- PyTorch's first format, a tar -------------------------------------

    def _oldest_part(self, place: Place) -> bool:
        """The pickles of `storages` and `tensors`, which have raw numbers between them; whether it is such a part."""
        traces = self.stacked(place)
        first = next(traces, None)
        if first is None or first.broken or not isinstance(first.value, int):
            return False
        at = first.end
        for _ in range(first.value):
            check_time()
            trace = next(self.stacked(replace(place, start=at)), None)
            if trace is None:
                break
            self.trace(trace, place.where, place)
            if trace.broken:
                self.skip("its tensors cannot be followed to their end", place.where)
                return True
            at = _behind_numbers(place, trace)
        self.pickle(replace(place, start=at))
        return True


def _behind_numbers(place: Place, trace: PickleTrace) -> int:
    """`storages`: a count and so many values; `tensors`: the number of dimensions, two figures for each, an offset."""
    kind = trace.value[2] if isinstance(trace.value, tuple) and len(trace.value) == 3 else None
    count = place.data[trace.end : trace.end + 8]
    if isinstance(kind, GlobalName) and kind.name.endswith("Storage"):
        _, width = DTYPES.get(kind.name.removesuffix("Storage"), ("", 1))
        return trace.end + 8 + max(0, int.from_bytes(count, "little", signed=True)) * width
    return trace.end + 8 + 16 * max(0, int.from_bytes(count[:4], "little", signed=True)) + 8


class _Checksums:
    """Those that are wrong: a writer that leaves all of them out is one thing, a single wrong one another."""

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._right = 0
        self._absent = 0

    def note(self, stated: int, right: bool, where: str) -> None:
        """One member."""
        if right:
            self._right += 1
        else:
            self._wrong.append(where)
            self._absent += stated == 0

    def dangers(self) -> Iterator[Danger]:
        """`torch.serialization.set_crc32_options(False)` writes zeros for all of them."""
        if self._wrong and self._absent == len(self._wrong) and not self._right:
            yield Danger(Level.NOTE, "it was written without checksums", "zip")
        elif self._wrong:
            message = "a checksum is wrong: torch reads the member all the same, other readers refuse it"
            yield Danger(Level.SUSPECT, message, self._wrong[0])
